"""Network of the inverse dynamics model: from clips to camera motion, keys and camera positions.

The camera is level, so frames are encoded column by column. Each frame alone gives a rough camera pose. Two
consecutive frames give the motion between them: their columns are correlated at every shift. Temporal
convolutions correct the motions and estimate the errors, by which poses and motions are fused into a track.

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
"""Size of the input frames in pixels."""
TYPICAL = (0.2, 0.03, 0.05, 0.01)
"""Typical errors of position and yaw of one frame, and of translation and rotation of a motion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IDMConfig:
    """Sizes of the network and scales of its outputs."""

    keys: tuple[str, ...]
    column_channels: int = 64
    """Channels of a column; a multiple of 4."""
    max_shift: int = 11
    """Largest shift between columns, which are two pixels wide: 25 degrees at a field of view of 90."""
    state_dim: int = 128
    """Length of the state of a frame, of a pair of frames and of a time step."""
    feature_dim: int = 32
    """Length of the features of one frame, in which sets of frames are pair_inputs."""
    position_bins: int = 64
    """Bins of x and of y, over 1.1 radii to either side of the centre."""
    heading_bins: int = 36
    """Bins of the heading."""
    motion_scale: tuple[float, float, float] = (0.25, 0.25, 0.1)
    """Scale of motions: metres forward, metres right, radians right, per frame."""
    map_centre: tuple[float, float] = (0.0, 0.0)
    """Centre of the camera positions in the training data, in metres."""
    map_radius: float = 1.0
    """Half of their extent, in metres."""


@dataclass(frozen=True, slots=True)
class PoseEstimate:
    """Camera pose of each frame, estimated from this frame alone."""

    logits: tuple[Tensor, Tensor, Tensor]
    """Over bins of x, of y and of yaw: [B, T, position bins] twice, [B, T, heading bins]."""
    track: Tensor
    """[B, T, 3]: their means, in metres from the centre and radians."""
    log_spread: Tensor
    """[B, T, 3]: logarithms of their approximate spreads, in radii and radians."""


@dataclass(frozen=True, slots=True)
class IDMOutput:
    """Outputs for clips. Tracks are as in ``fuse_track``, from the centre."""

    pair: Tensor
    """[B, T - 1, 3]: motion from each frame to the next from these two alone, in scales."""
    motion: Tensor
    """[B, T - 1, 3]: the same, corrected with the frames before and after."""
    pose: PoseEstimate
    """Pose of each frame alone."""
    errors: Tensor
    """[B, T, 4]: logs of the expected errors of position, yaw, translation, rotation, over typical ones."""
    track: Tensor
    """[B, T, 3]: least-squares fusion of poses and motions."""
    keys: Tensor
    """[B, T - 1, M]: logits of the keys held on the way."""
    features: Tensor
    """[B, T, D]: features of each frame alone."""


class IDMNetwork(nn.Module):
    """Inverse dynamics network; see the module's docstring."""

    _GROUPS = 4

    def __init__(self, config: IDMConfig) -> None:
        super().__init__()
        self.config = config
        width, state = config.column_channels, config.state_dim
        self.column_encoder = nn.Sequential(
            *_conv_block(nn.Conv2d(3, 16, 5, (3, 2), (1, 2), bias=False)),
            *_conv_block(nn.Conv2d(16, 32, 3, (2, 1), 1, bias=False)),
            *_conv_block(nn.Conv2d(32, 48, 3, (2, 1), 1, bias=False)),
            *_conv_block(nn.Conv2d(48, 2 * width, (5, 1), bias=False)),
            *_conv_block(nn.Conv2d(2 * width, width, (1, 3), 1, (0, 1), bias=False))[:-1],
        )
        self.frame_encoder = nn.Sequential(
            nn.ReLU(),
            *_conv_block(nn.Conv1d(width, 128, 3, 2, 1, bias=False)),
            *_conv_block(nn.Conv1d(128, 160, 3, 2, 1, bias=False)),
            nn.Flatten(), nn.Linear(160 * 10, 192), nn.ReLU(), nn.Linear(192, state), nn.ReLU(),
        )  # fmt: skip
        self.feature_head = nn.Linear(state, config.feature_dim)
        self.feature_probe = nn.Sequential(
            nn.ReLU(), nn.Linear(config.feature_dim, 64), nn.ReLU(), nn.Linear(64, 4)
        )
        self.pose_head = nn.Linear(state, 2 * config.position_bins + config.heading_bins)
        pair_inputs = self._GROUPS * (2 * config.max_shift + 1) + 2 * width
        self.pair_encoder = nn.Sequential(
            *_conv_block(nn.Conv1d(pair_inputs, 128, 3, 2, 1, bias=False)),
            *_conv_block(nn.Conv1d(128, 96, 3, 2, 1, bias=False)),
            nn.Flatten(), nn.Linear(96 * 10, state), nn.ReLU(),
        )  # fmt: skip
        self.motion_head = nn.Linear(state, 3)
        self.temporal = nn.Sequential(
            nn.Conv1d(2 * state + 10, state, 5, padding=2), nn.ReLU(),
            nn.Conv1d(state, state, 5, padding=4, dilation=2), nn.ReLU(),
            nn.Conv1d(state, state, 5, padding=6, dilation=3), nn.ReLU(),
        )  # fmt: skip
        self.correction_head = nn.Conv1d(state, 7, 1)
        nn.init.zeros_(self.correction_head.weight)
        if self.correction_head.bias is not None:
            nn.init.zeros_(self.correction_head.bias)
        # Keys change the speed: it and its change are inputs.
        self.key_head = nn.Sequential(
            nn.Conv1d(state + 7, state, 5, padding=2), nn.ReLU(),
            nn.Conv1d(state, 96, 5, padding=4, dilation=2), nn.ReLU(),
            nn.Conv1d(96, len(config.keys), 1),
        )  # fmt: skip

    def forward(self, frames: Tensor) -> IDMOutput:
        """Frames [B, T, 3, 60, 80] in [-1, 1], T >= 2."""
        return self.predict_from(*self.encode_clip(frames))

    def encode_clip(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode each frame, [B, T, S], and each pair of consecutive frames, [B, T - 1, S]."""
        batch, length = frames.shape[:2]
        columns = self.column_encoder(frames.flatten(0, 1))[:, :, 0]
        clips = columns.unflatten(0, (batch, length))
        before, after = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
        pair = self.pair_encoder(torch.cat([self._compare(before, after).to(before.dtype), before, after], 1))
        return self.frame_encoder(columns).unflatten(0, (batch, length)), pair.unflatten(
            0, (batch, length - 1)
        )

    def predict_from(self, frame: Tensor, pair: Tensor) -> IDMOutput:
        """Predict from the codes of frames and pairs."""
        pose = self._pose(self.pose_head(frame).float())
        moved = self.motion_head(pair).float()
        scale = moved.new_tensor(self.config.motion_scale)
        disagreement = ((motion_between(pose.track) / scale - moved) / 5).clamp(-1, 1)
        inputs = _shifted(torch.cat([pair, moved, disagreement.detach()], -1).float())
        inputs = torch.cat(
            [inputs, frame.float(), pose.log_spread.detach() / 2, torch.ones_like(inputs[..., :1])], -1
        )
        context = self.temporal(inputs.transpose(1, 2))
        correction = self.correction_head(context).float().transpose(1, 2)
        motion, errors = moved + correction[:, 1:, :3], correction[..., 3:].clamp(-6, 6)
        track = fuse(pose.track, motion * scale, (-2 * errors).exp() / errors.new_tensor(TYPICAL).square())
        keys = self._keys(context, (motion_between(track) / scale).detach())
        return IDMOutput(moved, motion, pose, errors, track, keys, self.feature_head(frame).float())

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Return features [N, D] of frames [N, 3, 60, 80], each alone."""
        features: Tensor = self.feature_head(self.frame_encoder(self.column_encoder(frames)[:, :, 0]))
        return features

    def position_axis(self, device: torch.device | None = None) -> Tensor:
        """Return the centres of the bins of x and y, in radii."""
        return torch.linspace(-1.1, 1.1, self.config.position_bins, device=device)

    def headings(self, device: torch.device | None = None) -> Tensor:
        """Return the centres of the bins of yaw, in radians."""
        return torch.arange(self.config.heading_bins, device=device) * (
            2 * math.pi / self.config.heading_bins
        )

    def _pose(self, logits: Tensor) -> PoseEstimate:
        """Return the pose estimate of logits [B, T, 2 * position bins + heading bins]."""
        bins = self.config.position_bins
        x, y, yaw = logits.split([bins, bins, self.config.heading_bins], -1)
        axis, headings = self.position_axis(logits.device), self.headings(logits.device)
        share = torch.stack([x, y], -2).softmax(-1)
        mean = (share * axis).sum(-1)
        spread = (share * (axis - mean[..., None]).square()).sum(-1)
        ahead, aside = ((yaw.softmax(-1) * part).sum(-1) for part in (headings.cos(), headings.sin()))
        blurred = (1.0001 - ahead.square() - aside.square()).clamp(min=1e-4)
        track = torch.cat([mean * self.config.map_radius, torch.atan2(aside, ahead)[..., None]], -1)
        log_spread = torch.cat([(spread + 1e-5).log() / 2, blurred.log()[..., None]], -1)
        return PoseEstimate((x, y, yaw), track, log_spread)

    def _keys(self, context: Tensor, motion: Tensor) -> Tensor:
        """Return key logits [B, T - 1, M] from context [B, S, T] and scaled motion [B, T - 1, 3]."""
        speed = _shifted(motion)
        change = speed - _shifted(speed)[:, :-1]
        inside = torch.ones_like(speed[..., :1])
        inputs = torch.cat([speed, 3 * change, inside], -1).transpose(1, 2)
        logits: Tensor = self.key_head(torch.cat([context.float(), inputs], 1))
        return logits.float().transpose(1, 2)[:, 1:]

    def _compare(self, before: Tensor, after: Tensor) -> Tensor:
        """Correlate the columns [N, C, W] of two frames at every shift: [N, G * shifts, W]."""
        shift, groups = self.config.max_shift, self._GROUPS
        left, right = (F.normalize(x.float().unflatten(1, (groups, -1)), dim=2) for x in (before, after))
        similarity = left.transpose(2, 3) @ F.pad(right, (shift, shift))
        width = left.shape[-1]
        near = torch.arange(width)[:, None] + torch.arange(2 * shift + 1)
        band = similarity.gather(-1, near.to(similarity.device).expand(*similarity.shape[:2], -1, -1))
        return band.transpose(2, 3).flatten(1, 2)


def _conv_block(convolution: nn.Conv1d | nn.Conv2d) -> list[nn.Module]:
    """Return a convolution with batch normalisation and ReLU."""
    normed = nn.BatchNorm1d if isinstance(convolution, nn.Conv1d) else nn.BatchNorm2d
    return [convolution, normed(convolution.out_channels), nn.ReLU()]


def _shifted(steps: Tensor) -> Tensor:
    """Pad steps [B, T - 1, C] to the motion that led into each frame [B, T, C]; zeros for the first."""
    return F.pad(steps, (0, 0, 1, 0))
