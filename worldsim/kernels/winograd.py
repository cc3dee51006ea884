"""Weights of 3x3 convolutions as winograd.h takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.kernels.dense import pack_panels

_IN = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
"""Weight transform of F(4x4, 3x3) for one row (Lavin and Gray, 1509.09308)."""


def winograd_weights(weight: Tensor) -> Tensor:
    """Weights [outputs, inputs, 3, 3] as float32 [36, panels, inputs, 64]: a product for each spot."""
    rows = _IN.to(weight.device)
    spots = torch.einsum("ya,xb,oiab->yxoi", rows, rows, weight.detach().double()).flatten(0, 1)
    return pack_panels(spots.float())
