"""Scale of the sampling noise in a static scene, by the camera's speed."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_NOISE_SCALE = 0.8
"""Upper bound of the noise scale: in a static scene little is uncertain, and noise is mostly grain."""


def noise_scale(twist: Tensor) -> Tensor:
    """Factor of the noise [B], in [0, 0.8], for cameras that move by ``twist``.

    ``twist`` [B, 6] is normalised: 1 is a typical step. At rest the factor is 0: nothing new comes into view,
    and resampled noise would accumulate on an unchanged image.
    """
    total = torch.zeros_like(twist[:, 0])
    for part in twist.detach().square().unbind(1):  # one by one: alike, to the bit, in every batch
        total = total + part
    return MAX_NOISE_SCALE * total.sqrt().clamp(max=1)
