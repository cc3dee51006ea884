"""Rotary positions over any number of axes (RoFormer; as in FLUX, each turns its own share of a head)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def rope_frequencies(positions: Tensor, dims: tuple[int, ...], base: float = 100.0) -> Tensor:
    """Unit complex numbers [..., sum(dims) / 2] for ``positions`` [..., axes].

    ``dims[i]`` channels, in pairs, turn with axis i.
    """
    parts = [
        positions[..., axis, None].float() * _frequencies(dim, base, positions.device)
        for axis, dim in enumerate(dims)
    ]
    angle = torch.cat(parts, -1)
    return torch.polar(torch.ones_like(angle), angle)


@cache
def _frequencies(dim: int, base: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return base ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Turn channel pairs of ``x`` [..., d] by ``rope``, complex [..., d / 2] (broadcast); float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope).flatten(-2)
