"""How much is left to chance where all but the camera stands still."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_NOISE_SCALE = 0.8
"""There is little to choose from in one still place, and noise is mostly grain."""


def noise_scale(twist: Tensor) -> Tensor:
    """What the noise of a still place is multiplied by [B], in [0, 0.8], where cameras move by ``twist``.

    ``twist`` [B, 6] is normalised: 1 is a usual step, and as much of one as the camera moves is the share of
    the noise. To who stands nothing new comes into view, and what chance paints on a still picture would be
    moved along and painted over again, until it covers it.
    """
    total = torch.zeros_like(twist[:, 0])
    for part in twist.detach().square().unbind(1):  # one by one: alike, to the bit, in every batch
        total = total + part
    return MAX_NOISE_SCALE * total.sqrt().clamp(max=1)
