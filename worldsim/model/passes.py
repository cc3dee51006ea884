"""Passes of a transformer over a unit: what they share, what they give, their flow times."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from worldsim.model.blocks import HeldKV
from worldsim.model.cache import Cache


@dataclass(frozen=True, slots=True)
class LatentPrediction:
    """Results of one pass."""

    clean: Tensor
    """The predicted clean latent [B, T, N, C]."""
    agent: Tensor
    """The agent token [B, T, D]."""
    keys: Tensor
    """Raw temporal keys [L, B, T, N + R, A, d]."""
    values: Tensor
    """Temporal values, likewise."""


@dataclass(frozen=True, slots=True)
class PreparedUnit:
    """All that the passes over one unit share: those that denoise, then the clean one that is committed."""

    cache: Cache
    embedded: Tensor
    """The prior, as the blocks take it [B, 1, N, D]."""
    modulation: Tensor
    """Modulation of every pass [B, K + 1, 3, L, D]."""
    t: Tensor
    """Flow time of every pass [1, K + 1]."""
    held: list[HeldKV] = field(default_factory=list)
    """For each block the tokens of the unit that are drawn already, where it is drawn part by part."""


@cache
def schedule(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Level and size of each of ``steps`` denoising passes and of the clean one, both [1, steps + 1]."""
    with torch.inference_mode(False):
        t = torch.tensor([[*(i / steps for i in range(steps)), 1.0]], device=device)
        size = torch.tensor([[*[1 / max(steps, 1)] * steps, 1.0]], device=device)
    return t, size
