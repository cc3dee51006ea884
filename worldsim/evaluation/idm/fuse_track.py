"""Fusion of positions and motions on the ground into one track, for the inverse dynamics model.

Motions are exact from frame to frame, but their errors add up; positions are estimated from every frame
anew, but roughly. Once the heading is known, the best track is a linear least-squares problem.

A track is ``[B, T, 3]``: x and y in metres, yaw in radians to the left of +x. A motion is ``[B, T, 3]``:
metres forward, metres right, radians to the right.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fuse", "motion_between", "wrap_angle"]

_OUTLIER = 9.0
"""Squared deviation, over its variance, at which an estimated position counts half."""


def wrap_angle(angle: Tensor) -> Tensor:
    """Return the same angles in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def motion_between(track: Tensor, lag: int = 1) -> Tensor:
    """Return the motion [B, T - lag, 3] from each frame of a track to the one ``lag`` frames later."""
    before, after = track[:, :-lag], track[:, lag:]
    east, north = (after - before)[..., 0], (after - before)[..., 1]
    yaw = before[..., 2]
    forward = yaw.cos() * east + yaw.sin() * north
    right = yaw.sin() * east - yaw.cos() * north
    return torch.stack([forward, right, wrap_angle(yaw - after[..., 2])], -1)


def fuse(seen: Tensor, motion: Tensor, trust: Tensor) -> Tensor:
    """Fuse estimated poses ``seen`` [B, T, 3] with the motions [B, T - 1, 3] between them.

    ``trust`` [B, T, 4]: one over the variance of position and yaw, and of translation and rotation of the
    motion that led to the frame (ignored for the first frame). Outliers among the positions are
    down-weighted.
    """
    turned = F.pad(-motion[..., 2], (1, 0)).cumsum(1)
    apart = seen[..., 2] - turned
    weight = trust[..., 1]
    mean = torch.atan2((weight * apart.sin()).sum(1), (weight * apart.cos()).sum(1))[:, None]
    off = _smooth(wrap_angle(apart - mean)[..., None], weight, trust[:, 1:, 3])[..., 0]
    yaw = turned + mean + off
    path = F.pad(_on_ground(motion, yaw[:, :-1]).cumsum(1), (0, 0, 1, 0))
    weight = trust[..., 0]
    apart = seen[..., :2] - path
    middle = (weight[..., None] * apart).sum(1, keepdim=True) / weight[..., None].sum(1, keepdim=True)
    position = path + middle + _smooth(apart - middle, weight, trust[:, 1:, 2])
    return torch.cat([position, yaw[..., None]], -1)


def _on_ground(motion: Tensor, yaw: Tensor) -> Tensor:
    """Rotate motions begun under ``yaw`` [B, T] into steps [B, T, 2] along x and y."""
    forward, right = motion[..., 0], motion[..., 1]
    return torch.stack([yaw.cos() * forward + yaw.sin() * right, yaw.sin() * forward - yaw.cos() * right], -1)


def _smooth(apart: Tensor, near: Tensor, stiff: Tensor) -> Tensor:
    """Minimise near (s - apart)^2 + stiff (s' - s)^2 over s [B, T, C], with weights [B, T] and [B, T - 1].

    Solved twice: the second time with outliers down-weighted. In float64: the weights span many orders of
    magnitude.
    """
    apart, near, stiff = apart.double(), near.double(), stiff.double()
    ties = torch.diag_embed(-stiff, 1) + torch.diag_embed(-stiff, -1)
    ties = ties + torch.diag_embed(F.pad(stiff, (0, 1)) + F.pad(stiff, (1, 0)))
    smooth, weight = apart, near
    for _ in range(2):
        matrix = ties + torch.diag_embed(weight + 1e-6)
        smooth = torch.linalg.solve(matrix, weight[..., None] * apart)
        weight = near / (1 + near * (smooth - apart).square().sum(-1) / _OUTLIER)
    return smooth.float()
