"""The IDM's network: from clips to how the camera moved, which keys were held, where it was.

The camera is level, so frames are read column by column. Each frame alone tells roughly where it was taken,
two consecutive ones tell the motion between them: their columns are compared at every shift. Convolutions
over time mend the motions and tell how far each output is to be trusted, and so all become one track.

Shapes: B clips, T frames, M keys, S numbers of a pair's state, D of a frame's features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.evaluation.idm.fuse_track import fuse, motion_between

__all__ = ["HEIGHT", "TYPICAL", "WIDTH", "IDMConfig", "IDMNetwork", "IDMOutput", "PoseEstimate"]

HEIGHT, WIDTH = 60, 80
"""Of the frames that are read, in pixels."""
TYPICAL = (0.2, 0.03, 0.05, 0.01)
"""Errors of a glimpse's place and yaw, and of a motion's way and turn, in metres and radians."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IDMConfig:
    """Sizes, and the scale of what is told."""

    keys: tuple[str, ...]
    columns: int = 64
    """Channels of a column; a multiple of 4."""
    shift: int = 11
    """Columns, two pixels wide, are compared up to so many apart: 25 degrees, at 90 degrees of view."""
    state: int = 128
    """Numbers that are kept of a pair of frames, of a frame, and of a moment in its time."""
    features: int = 32
    """Length of the code of one frame, in which sets of frames are compared."""
    bins: int = 64
    """In which x and y are told apart, over 1.1 spreads to either side of the centre."""
    turns: int = 36
    """In which headings are told apart."""
    scale: tuple[float, float, float] = (0.25, 0.25, 0.1)
    """Motions are told in multiples of this: metres forward, metres right, radians right, per frame."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Of the places seen in training, in metres."""
    spread: float = 1.0
    """Of these places, in metres."""


@dataclass(frozen=True, slots=True)
class PoseEstimate:
    """Where each frame alone seems to have been taken."""

    logits: tuple[Tensor, Tensor, Tensor]
    """Over bins of x, of y and of yaw: [B, T, bins], [B, T, bins], [B, T, turns]."""
    track: Tensor
    """[B, T, 3]: the means of these, in metres from the centre and radians."""
    doubt: Tensor
    """[B, T, 3]: the logarithms of their spreads, in spreads and radians, about."""


@dataclass(frozen=True, slots=True)
class IDMOutput:
    """What the network makes of clips. Tracks are as in ``fuse_track``, from the centre."""

    pair: Tensor
    """[B, T - 1, 3]: motion from each frame to the next by these two alone, in scales."""
    motion: Tensor
    """[B, T - 1, 3]: the same, with the frames before and after in view."""
    place: PoseEstimate
    """By each frame alone."""
    errors: Tensor
    """[B, T, 4]: logarithms of the errors to expect of place, yaw, way and turn, in typical ones."""
    track: Tensor
    """[B, T, 3]: what agrees best with all of these."""
    keys: Tensor
    """[B, T - 1, M]: logits of the keys held on the way."""
    features: Tensor
    """[B, T, D]: code of each frame alone."""


class IDMNetwork(nn.Module):
    """See the module."""

    _GROUPS = 4

    def __init__(self, config: IDMConfig) -> None:
        super().__init__()
        self.config = config
        width, state = config.columns, config.state
        self.eye = nn.Sequential(
            *_conv_block(nn.Conv2d(3, 16, 5, (3, 2), (1, 2), bias=False)),
            *_conv_block(nn.Conv2d(16, 32, 3, (2, 1), 1, bias=False)),
            *_conv_block(nn.Conv2d(32, 48, 3, (2, 1), 1, bias=False)),
            *_conv_block(nn.Conv2d(48, 2 * width, (5, 1), bias=False)),
            *_conv_block(nn.Conv2d(2 * width, width, (1, 3), 1, (0, 1), bias=False))[:-1],
        )
        self.look = nn.Sequential(
            nn.ReLU(),
            *_conv_block(nn.Conv1d(width, 128, 3, 2, 1, bias=False)),
            *_conv_block(nn.Conv1d(128, 160, 3, 2, 1, bias=False)),
            nn.Flatten(), nn.Linear(160 * 10, 192), nn.ReLU(), nn.Linear(192, state), nn.ReLU(),
        )  # fmt: skip
        self.code = nn.Linear(state, config.features)
        self.recall = nn.Sequential(nn.ReLU(), nn.Linear(config.features, 64), nn.ReLU(), nn.Linear(64, 4))
        self.where = nn.Linear(state, 2 * config.bins + config.turns)
        compared = self._GROUPS * (2 * config.shift + 1) + 2 * width
        self.pair = nn.Sequential(
            *_conv_block(nn.Conv1d(compared, 128, 3, 2, 1, bias=False)),
            *_conv_block(nn.Conv1d(128, 96, 3, 2, 1, bias=False)),
            nn.Flatten(), nn.Linear(96 * 10, state), nn.ReLU(),
        )  # fmt: skip
        self.moved = nn.Linear(state, 3)
        self.time = nn.Sequential(
            nn.Conv1d(2 * state + 10, state, 5, padding=2), nn.ReLU(),
            nn.Conv1d(state, state, 5, padding=4, dilation=2), nn.ReLU(),
            nn.Conv1d(state, state, 5, padding=6, dilation=3), nn.ReLU(),
        )  # fmt: skip
        self.mend = nn.Conv1d(state, 7, 1)
        nn.init.zeros_(self.mend.weight)
        if self.mend.bias is not None:
            nn.init.zeros_(self.mend.bias)
        # A key shows in the change of speed.
        self.held = nn.Sequential(
            nn.Conv1d(state + 7, state, 5, padding=2), nn.ReLU(),
            nn.Conv1d(state, 96, 5, padding=4, dilation=2), nn.ReLU(),
            nn.Conv1d(96, len(config.keys), 1),
        )  # fmt: skip

    def forward(self, frames: Tensor) -> IDMOutput:
        """Frames [B, T, 3, 60, 80] in [-1, 1], T >= 2."""
        return self.understand(*self.see(frames))

    def see(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen in each frame, [B, T, S], and between it and the next, [B, T - 1, S]."""
        batch, length = frames.shape[:2]
        columns = self.eye(frames.flatten(0, 1))[:, :, 0]
        clips = columns.unflatten(0, (batch, length))
        before, after = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
        pair = self.pair(torch.cat([self._compare(before, after).to(before.dtype), before, after], 1))
        return self.look(columns).unflatten(0, (batch, length)), pair.unflatten(0, (batch, length - 1))

    def understand(self, look: Tensor, pair: Tensor) -> IDMOutput:
        """What follows from what was seen."""
        place = self._place(self.where(look).float())
        moved = self.moved(pair).float()
        scale = moved.new_tensor(self.config.scale)
        astray = ((motion_between(place.track) / scale - moved) / 5).clamp(-1, 1)
        told = _shifted(torch.cat([pair, moved, astray.detach()], -1).float())
        told = torch.cat([told, look.float(), place.doubt.detach() / 2, torch.ones_like(told[..., :1])], -1)
        context = self.time(told.transpose(1, 2))
        mended = self.mend(context).float().transpose(1, 2)
        motion, errors = moved + mended[:, 1:, :3], mended[..., 3:].clamp(-6, 6)
        track = fuse(place.track, motion * scale, (-2 * errors).exp() / errors.new_tensor(TYPICAL).square())
        keys = self._keys(context, (motion_between(track) / scale).detach())
        return IDMOutput(moved, motion, place, errors, track, keys, self.code(look).float())

    def encode(self, frames: Tensor) -> Tensor:
        """The code [N, D] of frames [N, 3, 60, 80], each alone."""
        code: Tensor = self.code(self.look(self.eye(frames)[:, :, 0]))
        return code

    def axis(self, device: torch.device | None = None) -> Tensor:
        """[bins]: the middles of the bins of x and y, in spreads."""
        return torch.linspace(-1.1, 1.1, self.config.bins, device=device)

    def headings(self, device: torch.device | None = None) -> Tensor:
        """[turns]: the middles of the bins of yaw, in radians."""
        return torch.arange(self.config.turns, device=device) * (2 * math.pi / self.config.turns)

    def _place(self, logits: Tensor) -> PoseEstimate:
        """From [B, T, 2 * bins + turns]."""
        bins = self.config.bins
        x, y, yaw = logits.split([bins, bins, self.config.turns], -1)
        axis, headings = self.axis(logits.device), self.headings(logits.device)
        share = torch.stack([x, y], -2).softmax(-1)
        mean = (share * axis).sum(-1)
        spread = (share * (axis - mean[..., None]).square()).sum(-1)
        ahead, aside = ((yaw.softmax(-1) * part).sum(-1) for part in (headings.cos(), headings.sin()))
        blurred = (1.0001 - ahead.square() - aside.square()).clamp(min=1e-4)
        track = torch.cat([mean * self.config.spread, torch.atan2(aside, ahead)[..., None]], -1)
        doubt = torch.cat([(spread + 1e-5).log() / 2, blurred.log()[..., None]], -1)
        return PoseEstimate((x, y, yaw), track, doubt)

    def _keys(self, context: Tensor, motion: Tensor) -> Tensor:
        """[B, T - 1, M], from the context of each moment [B, S, T] and the motion [B, T - 1, 3] in scales."""
        speed = _shifted(motion)
        change = speed - _shifted(speed)[:, :-1]
        inside = torch.ones_like(speed[..., :1])
        told = torch.cat([speed, 3 * change, inside], -1).transpose(1, 2)
        logits: Tensor = self.held(torch.cat([context.float(), told], 1))
        return logits.float().transpose(1, 2)[:, 1:]

    def _compare(self, before: Tensor, after: Tensor) -> Tensor:
        """How alike the columns [N, C, W] of two frames are at every shift: [N, G * shifts, W]."""
        shift, groups = self.config.shift, self._GROUPS
        left, right = (F.normalize(x.float().unflatten(1, (groups, -1)), dim=2) for x in (before, after))
        alike = left.transpose(2, 3) @ F.pad(right, (shift, shift))
        width = left.shape[-1]
        near = torch.arange(width)[:, None] + torch.arange(2 * shift + 1)
        band = alike.gather(-1, near.to(alike.device).expand(*alike.shape[:2], -1, -1))
        return band.transpose(2, 3).flatten(1, 2)


def _conv_block(convolution: nn.Conv1d | nn.Conv2d) -> list[nn.Module]:
    """A convolution, normalised and rectified."""
    normed = nn.BatchNorm1d if isinstance(convolution, nn.Conv1d) else nn.BatchNorm2d
    return [convolution, normed(convolution.out_channels), nn.ReLU()]


def _shifted(steps: Tensor) -> Tensor:
    """What led into each moment: [B, T, C] of steps [B, T - 1, C], zeros into the first."""
    return F.pad(steps, (0, 0, 1, 0))
