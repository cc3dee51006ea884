"""Camera paths and controls without frames: training data of the dynamics.

Shapes: B windows, T arrivals, M keys and yaw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import ClipStore


@dataclass(frozen=True, slots=True)
class CameraPath:
    """B windows of T arrivals."""

    planar: Tensor
    """x, y, z, yaw float32 [B, T, 4]."""
    twists: Tensor
    """Twists in metres and radians that led to each, float32 [B, T, 6]; the first is meaningless."""
    controls: Tensor
    """Keys and yaw that led to each, float32 [B, T, J]."""


class CameraPaths:
    """Sampler of camera paths of a recording; all poses are converted once."""

    def __init__(self, clips: ClipStore) -> None:
        controls, poses = clips.arrivals
        controls = controls[:, : clips.spec.control_space.motion_size]
        twists = np.zeros((len(poses), 6), np.float32)
        twists[1:] = camera.log(camera.relative(poses[:-1], poses[1:]))
        self._clips = clips
        self._planar = torch.from_numpy(camera.planar(poses).astype(np.float32))
        self._twists, self._controls = torch.from_numpy(twists), torch.from_numpy(controls)

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> CameraPath:
        """Draw windows within episodes.

        Raises:
            DataError: no episode is long enough.
        """
        first = torch.from_numpy(self._clips.draw(batch, length, rng))
        at = first[:, None] + torch.arange(length)
        return CameraPath(self._planar[at], self._twists[at], self._controls[at])


def twist_scale(poses: np.ndarray) -> tuple[float, ...]:
    """Return the RMS of each component of the twists between ``poses`` [N, 4, 4]; 0 for constant ones.

    Jumps between episodes are left out.
    """
    twists = camera.log(camera.relative(poses[:-1], poses[1:]))
    steady = np.abs(twists[:, :3]).max(-1) < 4 * np.median(np.abs(twists[:, :3]).max(-1)) + 1e-3
    size = np.sqrt((twists[steady] ** 2).mean(0))
    return tuple(float(x) if x > 1e-4 else 0.0 for x in size)


def median_height(poses: np.ndarray) -> float:
    """Return the median height of cameras [N, 4, 4], in metres."""
    return round(float(np.median(poses[:, 2, 3])), 4)
