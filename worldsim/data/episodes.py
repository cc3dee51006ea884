"""One episode in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldsim.errors import DataError

__all__ = ["EpisodeArrays"]


@dataclass(frozen=True, eq=False)
class EpisodeArrays:
    """An episode of T rows. Row t: observation t, the control then taken, and what followed it.

    Raises:
        DataError: no rows, or arrays of different lengths.
    """

    frames: np.ndarray
    """``uint8 [T, H, W, 3]``."""
    controls: np.ndarray
    """``float32 [T, M]``: control vectors; see ``ControlSpace.vector``."""
    poses: np.ndarray | None
    """``float64 [T, 4, 4]`` camera-to-world in metres, or None."""
    rewards: np.ndarray
    """``float32 [T]``: the reward that followed row t's control."""
    terminated: np.ndarray
    """``bool [T]``: whether the task ended with row t's control; only the last row can be true."""
    truncated: np.ndarray
    """``bool [T]``: whether the episode was cut after row t."""
    seed: int
    depth: np.ndarray | None = None
    """``[T, h, w]``, where it was kept."""
    labels: Mapping[str, np.ndarray] | None = None
    """Kind of object -> where it is seen, ``bool [T, H, W]``; None where it is not known."""

    def __post_init__(self) -> None:
        rows = (self.controls, self.poses, self.rewards, self.terminated, self.truncated, self.depth)
        labels = (self.labels or {}).values()
        lengths = [len(array) for array in (self.frames, *rows, *labels) if array is not None]
        if not lengths[0] or len(set(lengths)) != 1:
            raise DataError("an episode's arrays must share one length above 0", lengths)

    def __len__(self) -> int:
        return len(self.frames)
