"""Feature planes and bilinear reads of them.

Shapes: B views, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grid_coordinates(x: Tensor, y: Tensor) -> Tensor:
    """x and y [...], float32, as ``grid_sample`` takes them, [..., 2]; stacking takes five times as long."""
    return torch.view_as_real(torch.complex(x, y))


def sample_plane(plane: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear read of ``plane`` [1, C, h, w] at x, y [...] in [-1, 1] -> [parts, C, points of a part].

    Points share one grid instead of one for each view: expanding the plane would make its gradient as many
    planes big. A CPU's threads share the work by samples, so that without gradients there is one for each.
    """
    grid, parts = grid_coordinates(x, y).view(1, 1, -1, 2), 1
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        parts = math.gcd(x.numel(), torch.get_num_threads())
    grid = grid.view(parts, 1, -1, 2)
    found = F.grid_sample(plane.expand(parts, -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return found[:, :, 0]


def read_plane(plane: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear read of ``plane`` [1, C, h, w] at x, y [...] in [-1, 1] -> [C, ...]."""
    return sample_plane(plane, x, y).transpose(0, 1).reshape(plane.shape[1], *x.shape)


def cell_count(length: float, cell: float) -> int:
    return max(4, round(length / cell))


def feature_plane(channels: int, height: int, width: int) -> nn.Parameter:
    """Channels last in memory: what one point reads lies together, which halves the time of a lookup."""
    plane = torch.randn(1, channels, height, width) * 0.1
    return nn.Parameter(plane.contiguous(memory_format=torch.channels_last))
