"""Frames to grey levels, and statistics of a warp.

``pixels`` and ``sampling.uncertainty`` are the reference in torch.

Shapes: B frames, H x W pixels.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from worldsim.kernels.library import Pointer, address, kernel, shaped, workspace


def to_uint8(frame: Tensor) -> Tensor:
    """Grey levels uint8 [..., H, W, 3], rounded and clamped, of frames [..., 3, H, W] in [-1, 1]."""
    frame, (*lead, _, height, width) = frame.contiguous(), frame.shape
    levels, count = torch.empty(*lead, height, width, 3, dtype=torch.uint8), math.prod(lead)
    run = kernel("to_uint8", [Pointer, *[ctypes.c_int] * 3, Pointer])
    run(address(frame), count, height, width, address(levels, torch.uint8))
    return levels


def warp_statistics(frame: Tensor, warped: Tensor, valid: Tensor) -> Tensor:
    """Three means over each frame [B, 3]: warp error times confidence, confidence, brightness gradient.

    Args:
        frame: [B, 3, H, W].
        warped: the warped previous frame [B, 3, H, W].
        valid: confidence in the warp [B, 1, H, W].
    """
    count, _, height, width = frame.shape
    shapes = ((frame, 3), (warped, 3), (valid, 1))
    given = [shaped(part, count, planes, height, width).contiguous() for part, planes in shapes]
    means, spare = torch.empty(count, 3), workspace(3 * count * height)
    run = kernel("warp_statistics", [*[Pointer] * 3, *[ctypes.c_int] * 3, *[Pointer] * 2])
    run(*map(address, given), count, height, width, address(means), address(spare))
    return means
