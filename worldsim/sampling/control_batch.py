"""Controls of a batch: ``ControlBatch`` in NumPy, ``ControlTensors`` on the networks' device.

Shapes: B worlds, M control vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from worldsim.sampling.upload import upload


@dataclass(frozen=True, slots=True)
class ControlBatch:
    """Controls that lead into the new frame: NumPy arrays, or tensors on the networks' device."""

    vector: np.ndarray | Tensor
    """Control vectors, float32 [B, M]; see ``ControlSpace.vector``."""
    poses: np.ndarray | Tensor | None = None
    """Explicit camera-to-world of the new frame, float64 [B, 4, 4]; read where ``pose_mask``."""
    pose_mask: np.ndarray | Tensor | None = None
    """bool [B]; None: nowhere."""
    ahead: ControlBatch | None = None
    """Controls of this frame and those after it, as far as they are known, with an axis more: [B, F, ...].

    None: the control is held. Read where a unit has several frames, F."""

    def pick(self, rows: np.ndarray | slice) -> Self:
        """Those of some worlds."""
        poses, pose_mask = self.poses, self.pose_mask
        return replace(
            self,
            vector=self.vector[rows],
            poses=None if poses is None else poses[rows],
            pose_mask=None if pose_mask is None else pose_mask[rows],
            ahead=None if self.ahead is None else self.ahead.pick(rows),
        )

    def to(self, device: torch.device) -> ControlTensors:
        """The same as tensors."""
        vector = _tensor(self.vector, device)
        ahead = None if self.ahead is None else self.ahead.to(device)
        if self.poses is None or self.pose_mask is None:
            return ControlTensors(vector, ahead=ahead)
        if isinstance(self.pose_mask, np.ndarray) and not self.pose_mask.any():
            return ControlTensors(vector, ahead=ahead)
        return ControlTensors(vector, _tensor(self.poses, device), _tensor(self.pose_mask, device), ahead)


@dataclass(frozen=True, slots=True)
class ControlTensors(ControlBatch):
    """A ``ControlBatch`` on the networks' device."""

    vector: Tensor
    poses: Tensor | None = None
    pose_mask: Tensor | None = None
    ahead: ControlTensors | None = None

    def to(self, device: torch.device) -> ControlTensors:
        return self


def _tensor(value: np.ndarray | Tensor, device: torch.device) -> Tensor:
    return upload(value, device) if isinstance(value, np.ndarray) else value.to(device, non_blocking=True)
