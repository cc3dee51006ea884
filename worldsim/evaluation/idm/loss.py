"""Loss of the inverse dynamics model: poses of frames, motions over one and many frames, and keys.

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
"""Width of the Gaussian target over position bins, in bins."""
_LAGS = ((1, 0.1), (4, 0.2), (17, 0.4))
"""Frames that motions are composed over, and the unit of their errors, in scales."""
_MAX_ERROR = 50.0
"""Cap of errors over typical ones, where their size is predicted."""


@dataclass(frozen=True, slots=True)
class IDMTargets:
    """Targets of clips."""

    track: Tensor
    """[B, T, 3]: metres from the centre, radians."""
    held: Tensor
    """[B, T - 1, M]: 1 where a key was held."""
    weight: Tensor
    """[M]: weight of a held key, as keys are mostly up."""


def idm_loss(network: IDMNetwork, output: IDMOutput, targets: IDMTargets) -> Tensor:
    """Return the sum of all losses."""
    keys = F.binary_cross_entropy_with_logits(output.keys, targets.held, pos_weight=targets.weight)
    return (
        _pose_loss(network, output, targets.track)
        + _motion_loss(network, output, targets.track)
        + 0.05 * _error_loss(network, output, targets.track)
        + 0.2 * keys
    )


def _pose_loss(network: IDMNetwork, output: IDMOutput, true: Tensor) -> Tensor:
    """Return the loss of each frame's pose: Gaussian targets over the bins, and their means."""
    spread, seen = network.config.map_radius, output.pose.track
    x, y, yaw = output.pose.logits
    axis, headings = network.position_axis(true.device), network.headings(true.device)
    coarse = sum(
        (
            _soft_cross_entropy(logits, (axis - true[..., i, None] / spread) / (axis[1] - axis[0]))
            for i, logits in enumerate((x, y))
        ),
        _soft_cross_entropy(yaw, wrap_angle(headings - true[..., 2, None]) / (2 * math.pi / len(headings))),
    )
    fine = _robust((seen - true)[..., :2].norm(dim=-1), 0.25) + _robust(wrap_angle(seen - true)[..., 2], 0.05)
    angle = true[..., 2]
    where = torch.stack([true[..., 0] / spread, true[..., 1] / spread, angle.cos(), angle.sin()], -1)
    probed = F.smooth_l1_loss(network.feature_probe(output.features), where, beta=0.1)
    return 0.3 * coarse + 0.25 * fine + 0.3 * probed


def _motion_loss(network: IDMNetwork, output: IDMOutput, true: Tensor) -> Tensor:
    """Return the loss of single motions, and of the track over one, a few and many frames."""
    scale = true.new_tensor(network.config.motion_scale)
    single = motion_between(true) / scale
    loss = F.smooth_l1_loss(output.pair, single, beta=0.1)
    loss = loss + F.smooth_l1_loss(output.motion, single, beta=0.1)
    for lag, unit in _LAGS:
        lag = min(lag, true.shape[1] - 1)
        off = motion_between(output.track, lag) - motion_between(true, lag)
        off = torch.cat([off[..., :2], wrap_angle(off[..., 2:])], -1)
        loss = loss + 0.1 * _pseudo_huber(off / scale, unit)
    return loss + 0.15 * _robust((output.track - true)[..., :2].norm(dim=-1), 0.15)


def _error_loss(network: IDMNetwork, output: IDMOutput, true: Tensor) -> Tensor:
    """Return the loss of the predicted errors; it has no gradient to poses and motions."""
    pose_error = (output.pose.track - true).detach()
    motion = output.motion.detach() * true.new_tensor(network.config.motion_scale) - motion_between(true)
    found = (
        pose_error[..., :2].norm(dim=-1), wrap_angle(pose_error[..., 2]).abs(),
        motion[..., :2].norm(dim=-1), motion[..., 2].abs(),
    )  # fmt: skip
    loss = true.new_zeros(())
    for i, (error, typical) in enumerate(zip(found, TYPICAL, strict=True)):
        predicted = output.errors[:, -error.shape[1] :, i]
        loss = loss + (predicted + (error / typical).clamp(max=_MAX_ERROR) * (-predicted).exp()).mean()
    return loss


def _soft_cross_entropy(logits: Tensor, off: Tensor) -> Tensor:
    """Return the cross entropy against a Gaussian over bins that are ``off`` bins away."""
    return -((-0.5 * (off / _WIDTH).square()).softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


def _robust(error: Tensor, unit: Tensor | float) -> Tensor:
    """Return a loss that is quadratic below the unit and logarithmic beyond: outliers must not dominate."""
    return 0.5 * torch.log1p((error / unit).square()).mean()


def _pseudo_huber(error: Tensor, unit: float) -> Tensor:
    """Return a loss that is quadratic below the unit and linear beyond, in units."""
    return ((1 + (error / unit).square()).sqrt() - 1).mean()
