"""All frames and arrivals of a split on the training device, and windows that may run past an episode's end.

Windows that must lie within an episode show its end only at their last position and draw it less often by the
window's length. Here a window may begin at any arrival; what lies past the end is masked.

Shapes: B windows, T arrivals, M keys and yaw, H x W frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.errors import DataError

_DEVICE_FRACTION = 0.6
"""Share of a GPU's free memory that frames may take; larger stores stay in host memory."""


@dataclass(frozen=True, slots=True)
class Windows:
    """B windows of T arrivals."""

    arrivals: Tensor
    """Numbers of the arrivals, int64 [B, T]; past an episode's end its last one is repeated."""
    valid: Tensor
    """Arrivals that exist, bool [B, T]."""
    importance: Tensor
    """Importance weight: uniform probability of a window over its probability of being drawn, float32 [B]."""


class Sequences:
    """Frames, controls, rewards and ends of a ``ClipStore`` as tensors.

    Args:
        clips: the split.
        device: where they are kept; frames that do not fit a GPU stay in host memory.
    """

    def __init__(self, clips: ClipStore, device: torch.device) -> None:
        tracks = clips.tracks
        self.device = device
        self.frames = self._placed(torch.from_numpy(clips.frames))
        """uint8 [N, H, W, 3]"""
        self.frame = torch.from_numpy(tracks.frame).to(device)
        """Frame that each arrival sees, int64 [A]."""
        self.controls = torch.from_numpy(tracks.controls).to(device)
        """Control that led to each arrival, float32 [A, M]."""
        self.rewards = torch.from_numpy(tracks.rewards).to(device)
        """float32 [A]"""
        self.ends = torch.from_numpy(tracks.ends).to(device)
        """bool [A]"""
        self.planar: Tensor | None = None
        """x, y, z, yaw of each arrival's camera, float32 [A, 4]; None without poses."""
        self.twists: np.ndarray | None = None
        """Twists in metres and radians into each arrival, [A, 6]; zeros at an episode's first."""
        if tracks.poses is not None:
            self.planar = torch.from_numpy(camera.planar(tracks.poses).astype(np.float32)).to(device)
            self.twists = _twists(tracks.poses, tracks.first)
        self._first, self._last = tracks.first, tracks.last
        self.is_first = tracks.first == np.arange(len(tracks.first))
        """Arrivals that begin an episode, a NumPy array bool [A]."""
        self._ended, self._is_end = np.flatnonzero(tracks.ends), tracks.ends

    def __len__(self) -> int:
        """Number of arrivals, A."""
        return len(self.frame)

    def pixels(self, frame: Tensor) -> Tensor:
        """Frames [..., 3, H, W] in [-1, 1] of the numbers ``frame`` [...]."""
        taken = self.frames[frame.to(self.frames.device)].to(self.device, non_blocking=True)
        return taken.movedim(-1, -3).float() / 127.5 - 1

    def pairs(self, batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of ``batch`` frames that have a frame before them, and of those frames, int64 [B]."""
        arrivals = rng.integers(len(self._first), size=batch)
        arrivals = np.maximum(arrivals, self._first[arrivals] + 1)
        arrivals = np.minimum(arrivals, self._last[arrivals])
        now = torch.from_numpy(arrivals).to(self.device)
        return self.frame[now], self.frame[(now - 1).clamp(min=0)]

    def draw(
        self, batch: int, length: int, rng: np.random.Generator, starts: float = 0.1, ends: float = 0.0
    ) -> Windows:
        """Draw windows of ``length`` arrivals.

        Args:
            batch: number of windows, B.
            length: arrivals in each, T.
            rng: the source of chance.
            starts: share in [0, 1] that begins where an episode does.
            ends: share in [0, 1] that is placed around an end, anywhere in the window.

        Raises:
            DataError: no episode has two arrivals.
        """
        if not (self._last > self._first).any():
            raise DataError("an episode must have two frames", len(self), "record longer episodes")
        first = rng.integers(len(self._first), size=batch)
        kind = rng.random(batch)
        first = np.where(kind < starts, self._first[first], first)
        if ends > 0 and len(self._ended):
            end = rng.choice(self._ended, batch)
            around = np.maximum(end - rng.integers(1, length, size=batch), self._first[end])
            first = np.where(kind > 1 - ends, around, first)
        first = np.where(first == self._last[first], np.maximum(first - 1, self._first[first]), first)
        wanted, last = first[:, None] + np.arange(length), self._last[first][:, None]
        arrivals = torch.from_numpy(np.minimum(wanted, last)).to(self.device)
        importance = torch.from_numpy(self._importance(first, length, ends)).to(self.device)
        return Windows(arrivals, torch.from_numpy(wanted <= last).to(self.device), importance)

    def _importance(self, first: np.ndarray, length: int, ends: float) -> np.ndarray:
        """float32 [B]; windows drawn for their start count as all others."""
        last = self._last[first]
        holds_end = self._is_end[last] & (last - first < length) & (last > first)
        around = len(self) / max(1, len(self._ended)) / (length - 1)
        drawn = 1 - ends + ends * around * holds_end
        return (1 / drawn).astype(np.float32)

    def _placed(self, frames: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return frames
        free, _ = torch.cuda.mem_get_info(self.device)
        return frames.to(self.device) if frames.nbytes < _DEVICE_FRACTION * free else frames.pin_memory()


def _twists(poses: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Twists [A, 6] into each of ``poses`` [A, 4, 4]; zeros at the arrivals that begin an episode."""
    twists = np.zeros((len(poses), 6))
    twists[1:] = camera.log(camera.relative(poses[:-1], poses[1:]))
    twists[first == np.arange(len(first))] = 0
    return twists
