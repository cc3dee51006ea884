"""The judge's network: from consecutive frames to how the camera moved, which keys were held, where it is.

The camera is level, so frames are read column by column: what moves sideways is found by comparing the
columns of two frames at every shift, how far it is by how tall it stands in its column.

Shapes: B clips, T frames, M keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HEIGHT", "WIDTH", "JudgeConfig", "JudgeNetwork", "Reading"]

HEIGHT, WIDTH = 60, 80
"""Of the frames that are read, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Sizes, and the scale of what is told."""

    keys: tuple[str, ...]
    columns: int = 64
    """Channels of a column."""
    shift: int = 14
    """Columns are compared up to so many pixels apart: 16 degrees of turn at 90 degrees of view."""
    features: int = 32
    """Length of the code of one frame, in which sets of frames are compared."""
    scale: tuple[float, float, float] = (0.25, 0.25, 0.1)
    """Motions are told in multiples of this: metres forward, metres right, radians right, per frame."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Of the places seen in training, in metres."""
    spread: float = 1.0
    """Of these places, in metres."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the network makes of clips."""

    motion: Tensor
    """[B, T - 1, 3]: forward, right and yaw to the right from each frame to the next, in scales."""
    keys: Tensor
    """[B, T - 1, M]: logits of the keys held on the way."""
    features: Tensor
    """[B, T, D]: code of each frame alone."""
    place: Tensor
    """[B, T, 4]: x and y in spreads from the centre, cosine and sine of the heading, of each frame alone."""


class JudgeNetwork(nn.Module):
    """See the module."""

    _GROUPS = 4

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        width, code, moved = config.columns, config.features, 128
        self.eye = nn.Sequential(
            nn.Conv2d(3, 24, 5, (3, 1), (1, 2)), nn.SiLU(),
            nn.Conv2d(24, 32, (4, 3), (4, 1), (0, 1)), nn.SiLU(),
            nn.Conv2d(32, 2 * width, (5, 1)), nn.SiLU(),
            nn.Conv2d(2 * width, width, (1, 3), 1, (0, 1)),
        )  # fmt: skip
        compared = self._GROUPS * (2 * config.shift + 1) + 2 * width
        self.motion = nn.Sequential(
            nn.Conv1d(compared, 96, 3, 2, 1), nn.SiLU(),
            nn.Conv1d(96, 96, 3, 2, 1), nn.SiLU(),
            nn.Conv1d(96, 64, 3, 2, 1), nn.SiLU(),
            nn.Flatten(), nn.Linear(640, moved), nn.SiLU(),
        )  # fmt: skip
        self.moved = nn.Linear(moved, 3)
        # A key shows in the change of speed: two motions on either side are looked at.
        self.held = nn.Sequential(nn.Conv1d(moved + 3, 96, 5), nn.SiLU(), nn.Conv1d(96, len(config.keys), 1))
        self.code = nn.Sequential(
            nn.AvgPool1d(8), nn.Flatten(), nn.Linear(10 * width, 128), nn.SiLU(), nn.Linear(128, code)
        )
        self.place = nn.Sequential(nn.SiLU(), nn.Linear(code, 64), nn.SiLU(), nn.Linear(64, 4))

    def forward(self, frames: Tensor) -> Reading:
        """Frames [B, T, 3, 60, 80] in [-1, 1], T >= 2."""
        batch, length = frames.shape[:2]
        columns = self.eye(frames.flatten(0, 1))[:, :, 0]
        code = self.code(columns)
        clips = columns.unflatten(0, (batch, length))
        before, after = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
        state = self.motion(torch.cat([self._compare(before, after), before, after], 1))
        motion = self.moved(state)
        track = torch.cat([state, motion.detach()], -1).unflatten(0, (batch, length - 1))
        held = self.held(F.pad(track.transpose(1, 2), (2, 2), "replicate"))
        return Reading(
            motion.unflatten(0, (batch, length - 1)),
            held.transpose(1, 2),
            code.unflatten(0, (batch, length)),
            self.place(code).unflatten(0, (batch, length)),
        )

    def encode(self, frames: Tensor) -> Tensor:
        """The code [N, D] of frames [N, 3, 60, 80], each alone."""
        code: Tensor = self.code(self.eye(frames)[:, :, 0])
        return code

    def _compare(self, before: Tensor, after: Tensor) -> Tensor:
        """How alike the columns [N, C, W] of two frames are at every shift: [N, G * shifts, W]."""
        shift, groups = self.config.shift, self._GROUPS
        left, right = (F.normalize(x.unflatten(1, (groups, -1)), dim=2) for x in (before, after))
        alike = left.transpose(2, 3) @ F.pad(right, (shift, shift))
        width = left.shape[-1]
        near = torch.arange(width)[:, None] + torch.arange(2 * shift + 1)
        band = alike.gather(-1, near.to(alike.device).expand(*alike.shape[:2], -1, -1))
        return band.transpose(2, 3).flatten(1, 2)
