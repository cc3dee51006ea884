"""Camera paths and controls without frames: training data of the dynamics; what recipes plan from poses.

Shapes: B windows, T arrivals, M keys and yaw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError
from worldsim.model.heads import HeadsConfig


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


def known_poses(
    spec: SourceSpec, poses: np.ndarray | None, conditioning: Literal["keys", "both"]
) -> np.ndarray | None:
    """Return the ``poses`` [N, 4, 4] that a world without a static scene is conditioned on, or None.

    Raises:
        ConfigError: ``conditioning`` is "both", and the source has no poses.
    """
    if conditioning == "both" and poses is None:
        rule = "conditioning by keys and poses needs a source with poses"
        raise ConfigError(rule, spec.name, "choose conditioning=keys")
    return None if conditioning == "keys" else poses


def heads_of(poses: np.ndarray | None, end_weight: float) -> HeadsConfig:
    """Return the heads of a world without a static scene; with motion where there are ``poses`` [N, 4, 4]."""
    height = 0.0 if poses is None else median_height(poses)
    return HeadsConfig(poses=poses is not None, camera_height=height, end_weight=end_weight)


def twist_scale(poses: np.ndarray | None) -> tuple[float, ...]:
    """Return the RMS of each component of the twists between ``poses`` [N, 4, 4]; 0 for constant ones.

    Jumps between episodes are left out. Without poses it is 0.1 each.
    """
    if poses is None:
        return (0.1,) * 6
    twists = camera.log(camera.relative(poses[:-1], poses[1:]))
    steady = np.abs(twists[:, :3]).max(-1) < 4 * np.median(np.abs(twists[:, :3]).max(-1)) + 1e-3
    size = np.sqrt((twists[steady] ** 2).mean(0))
    return tuple(float(x) if x > 1e-4 else 0.0 for x in size)


def median_height(poses: np.ndarray) -> float:
    """Return the median height of cameras [N, 4, 4], in metres."""
    return round(float(np.median(poses[:, 2, 3])), 4)
