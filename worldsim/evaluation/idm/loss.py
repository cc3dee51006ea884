"""What the IDM is taught by: where each frame was, how the camera moved in one frame and in many, the keys.

Shapes: B clips, T frames, M keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.evaluation.idm.fuse_track import motion_between, wrap_angle
from worldsim.evaluation.idm.network import TYPICAL, IDMNetwork, IDMOutput

__all__ = ["IDMTargets", "idm_loss"]

_WIDTH = 0.75
"""Of the bell over bins that stands for a place, in bins."""
_LAGS = ((1, 0.1), (4, 0.2), (17, 0.4))
"""Frames that motions are composed over, and what is a small error then, in scales."""
_MOST = 50.0
"""Errors count up to so many typical ones where it is told how large they are."""


@dataclass(frozen=True, slots=True)
class IDMTargets:
    """Of clips."""

    track: Tensor
    """[B, T, 3]: metres from the centre, radians."""
    held: Tensor
    """[B, T - 1, M]: 1 where a key was held on the way."""
    weight: Tensor
    """[M]: of a held key, as keys are mostly up."""


def idm_loss(network: IDMNetwork, output: IDMOutput, targets: IDMTargets) -> Tensor:
    """The sum of all losses."""
    keys = F.binary_cross_entropy_with_logits(output.keys, targets.held, pos_weight=targets.weight)
    return (
        _pose_loss(network, output, targets.track)
        + _motion_loss(network, output, targets.track)
        + 0.05 * _error_loss(network, output, targets.track)
        + 0.2 * keys
    )


def _pose_loss(network: IDMNetwork, output: IDMOutput, true: Tensor) -> Tensor:
    """Of each frame alone: bells over the bins, and their means."""
    spread, seen = network.config.spread, output.place.track
    x, y, yaw = output.place.logits
    axis, headings = network.axis(true.device), network.headings(true.device)
    coarse = sum(
        (
            _crossed(logits, (axis - true[..., i, None] / spread) / (axis[1] - axis[0]))
            for i, logits in enumerate((x, y))
        ),
        _crossed(yaw, wrap_angle(headings - true[..., 2, None]) / (2 * math.pi / len(headings))),
    )
    fine = _robust((seen - true)[..., :2].norm(dim=-1), 0.25) + _robust(wrap_angle(seen - true)[..., 2], 0.05)
    angle = true[..., 2]
    where = torch.stack([true[..., 0] / spread, true[..., 1] / spread, angle.cos(), angle.sin()], -1)
    recalled = F.smooth_l1_loss(network.recall(output.features), where, beta=0.1)
    return 0.3 * coarse + 0.25 * fine + 0.3 * recalled


def _motion_loss(network: IDMNetwork, output: IDMOutput, true: Tensor) -> Tensor:
    """Of single motions, and of the track over one, a few and many frames."""
    scale = true.new_tensor(network.config.scale)
    single = motion_between(true) / scale
    loss = F.smooth_l1_loss(output.pair, single, beta=0.1)
    loss = loss + F.smooth_l1_loss(output.motion, single, beta=0.1)
    for lag, unit in _LAGS:
        lag = min(lag, true.shape[1] - 1)
        off = motion_between(output.track, lag) - motion_between(true, lag)
        off = torch.cat([off[..., :2], wrap_angle(off[..., 2:])], -1)
        loss = loss + 0.1 * _absolute(off / scale, unit)
    return loss + 0.15 * _robust((output.track - true)[..., :2].norm(dim=-1), 0.15)


def _error_loss(network: IDMNetwork, output: IDMOutput, true: Tensor) -> Tensor:
    """Of the errors to expect, which may not change what is read."""
    glimpse = (output.place.track - true).detach()
    motion = output.motion.detach() * true.new_tensor(network.config.scale) - motion_between(true)
    found = (
        glimpse[..., :2].norm(dim=-1), wrap_angle(glimpse[..., 2]).abs(),
        motion[..., :2].norm(dim=-1), motion[..., 2].abs(),
    )  # fmt: skip
    loss = true.new_zeros(())
    for i, (error, typical) in enumerate(zip(found, TYPICAL, strict=True)):
        told = output.errors[:, -error.shape[1] :, i]
        loss = loss + (told + (error / typical).clamp(max=_MOST) * (-told).exp()).mean()
    return loss


def _crossed(logits: Tensor, off: Tensor) -> Tensor:
    """Cross entropy against a bell over bins that are ``off`` by so many bins."""
    return -((-0.5 * (off / _WIDTH).square()).softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


def _robust(error: Tensor, unit: Tensor | float) -> Tensor:
    """Squares of errors well below the unit, logarithms of those beyond: mistaken rooms must not rule."""
    return 0.5 * torch.log1p((error / unit).square()).mean()


def _absolute(error: Tensor, unit: float) -> Tensor:
    """Squares of errors well below the unit, else the errors themselves, in units."""
    return ((1 + (error / unit).square()).sqrt() - 1).mean()
