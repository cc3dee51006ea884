"""Rays of a level pinhole camera. Shapes: N columns of a view, R rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import Intrinsics


@dataclass(frozen=True, slots=True)
class Rays:
    """Pixels of a level pinhole camera: ``right`` [N] and ``down`` [R] per unit of forward depth."""

    right: Tensor
    down: Tensor
    """Upwards first."""
    horizon: int
    """Rows that look up."""

    @staticmethod
    def of(intrinsics: Intrinsics, height: int, width: int) -> Rays:
        """All columns and rows of a frame of ``height`` x ``width`` pixels."""
        columns = (torch.arange(width) + 0.5 - intrinsics.cx) / intrinsics.fx
        rows = (torch.arange(height) + 0.5 - intrinsics.cy) / intrinsics.fy
        horizon = min(height, max(0, math.floor(intrinsics.cy + 0.5)))
        return Rays(columns.float(), rows.float(), horizon)
