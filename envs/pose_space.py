"""The action space of a camera pose that may be left out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from worldsim import camera
from worldsim.errors import CameraError

__all__ = ["PoseSpace"]

_REACH = 1e4
"""Bound of every entry: there only so that the space is finite; what a pose is, ``contains`` says."""
_SAMPLE_REACH = 1.0
"""Sampled cameras stand at most so many metres from the origin along each axis."""


class PoseSpace(spaces.Box):
    """Camera-to-world poses ``float64 [..., 4, 4]`` in metres; the all-zero matrix says "no pose given".

    Zeros and not NaN: they lie in a finite Box, survive replay buffers and comparisons, are what an empty
    batch holds, and no rigid motion is all zero, so the two can't be mistaken. A plain Box won't do: its
    samples are no rotations.
    """

    def __init__(self, batch: tuple[int, ...] = (), seed: int | np.random.Generator | None = None) -> None:
        super().__init__(-_REACH, _REACH, (*batch, 4, 4), np.float64, seed)

    @staticmethod
    def given(pose: Any) -> np.ndarray | None:
        """``pose`` checked, ``float64 [4, 4]``, or None where it is None or all zero.

        Raises:
            CameraError: a wrong shape, NaN, or no rigid motion.
        """
        if pose is None:
            return None
        array = np.asarray(pose, dtype=np.float64)
        if array.shape != (4, 4):
            raise CameraError("a pose must have shape (4, 4)", array.shape)
        return camera.check_pose(array) if array.any() else None

    def sample(self, mask: None = None, probability: None = None) -> np.ndarray:
        """A level camera near the origin for about every second pose, all zero for the others."""
        batch = self.shape[:-2]
        x, y, z = self.np_random.uniform(-_SAMPLE_REACH, _SAMPLE_REACH, (3, *batch))
        poses = camera.from_planar(x, y, z, self.np_random.uniform(-np.pi, np.pi, batch))
        return np.where(self.np_random.random((*batch, 1, 1)) < 0.5, poses, 0.0)

    def contains(self, x: Any) -> bool:
        """Return True if every matrix of ``x`` is a rigid motion within the bounds, or all zero."""
        if not isinstance(x, np.ndarray) or not super().contains(x):
            return False
        try:
            for pose in x.reshape(-1, 4, 4):
                self.given(pose)
        except CameraError:
            return False
        return True

    def __repr__(self) -> str:
        return f"PoseSpace({self.shape})"


@batch_space.register(PoseSpace)
def _batch_poses(space: PoseSpace, n: int = 1) -> PoseSpace:
    return PoseSpace((n, *space.shape[:-2]), seed=deepcopy(space.np_random))
