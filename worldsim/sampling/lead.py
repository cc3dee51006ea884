"""What leads into a frame: ``Controls``, and ``Lead``, the same where the networks are.

Shapes: B worlds, M keys and look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from worldsim.sampling.upload import upload


@dataclass(frozen=True, slots=True)
class Controls:
    """What leads into the new frame: NumPy arrays, or tensors where the networks are."""

    vector: np.ndarray | Tensor
    """Keys and look, float32 [B, M]."""
    poses: np.ndarray | Tensor | None = None
    """Explicit camera-to-world of the new frame, float64 [B, 4, 4]; read where ``given``."""
    given: np.ndarray | Tensor | None = None
    """bool [B]; None: nowhere."""
    ahead: Controls | None = None
    """Controls of this frame and those after it, as far as they are known, with an axis more: [B, F, ...].

    None: the control is held. Read where a unit has several frames, F."""

    def pick(self, rows: np.ndarray | slice) -> Self:
        """Those of some worlds."""
        poses, given = self.poses, self.given
        return replace(
            self,
            vector=self.vector[rows],
            poses=None if poses is None else poses[rows],
            given=None if given is None else given[rows],
            ahead=None if self.ahead is None else self.ahead.pick(rows),
        )

    def on(self, device: torch.device) -> Lead:
        """The same as tensors."""
        vector = _tensor(self.vector, device)
        ahead = None if self.ahead is None else self.ahead.on(device)
        if self.poses is None or self.given is None:
            return Lead(vector, ahead=ahead)
        if isinstance(self.given, np.ndarray) and not self.given.any():
            return Lead(vector, ahead=ahead)
        return Lead(vector, _tensor(self.poses, device), _tensor(self.given, device), ahead)


@dataclass(frozen=True, slots=True)
class Lead(Controls):
    """``Controls`` where the networks are."""

    vector: Tensor
    poses: Tensor | None = None
    given: Tensor | None = None
    ahead: Lead | None = None

    def on(self, device: torch.device) -> Lead:
        return self


def _tensor(value: np.ndarray | Tensor, device: torch.device) -> Tensor:
    return upload(value, device) if isinstance(value, np.ndarray) else value.to(device, non_blocking=True)
