"""Tracks on the ground, for the IDM: from places seen and motions between them to one path.

A motion is known well from frame to frame, but its errors add up; a place is known from every frame anew, but
roughly. The path that agrees best with both is a linear least-squares problem once the heading is known.

A track is ``[B, T, 3]``: x and y in metres, yaw in radians to the left of +x. A motion is ``[B, T, 3]``:
metres forward, metres right, radians to the right.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fuse", "motion_between", "wrap_angle"]

_DOUBT = 9.0
"""Squared deviations, in what was trusted, at which a seen place counts half."""


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angles in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def motion_between(track: Tensor, lag: int = 1) -> Tensor:
    """The motion [B, T - lag, 3] from each moment of a track to that ``lag`` frames later."""
    before, after = track[:, :-lag], track[:, lag:]
    east, north = (after - before)[..., 0], (after - before)[..., 1]
    yaw = before[..., 2]
    forward = yaw.cos() * east + yaw.sin() * north
    right = yaw.sin() * east - yaw.cos() * north
    return torch.stack([forward, right, wrap_angle(yaw - after[..., 2])], -1)


def fuse(seen: Tensor, motion: Tensor, trust: Tensor) -> Tensor:
    """The track that agrees best with places ``seen`` [B, T, 3] and with motions [B, T - 1, 3] between.

    ``trust`` [B, T, 4]: one over the variance of the seen place and yaw, and of the length and turn of
    the motion that led to the frame (the first frame's count for nothing). A place that lies far from the
    rest is doubted.
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
    place = path + middle + _smooth(apart - middle, weight, trust[:, 1:, 2])
    return torch.cat([place, yaw[..., None]], -1)


def _on_ground(motion: Tensor, yaw: Tensor) -> Tensor:
    """Steps [B, T, 2] along x and y, of motions begun under ``yaw`` [B, T]."""
    forward, right = motion[..., 0], motion[..., 1]
    return torch.stack([yaw.cos() * forward + yaw.sin() * right, yaw.sin() * forward - yaw.cos() * right], -1)


def _smooth(apart: Tensor, near: Tensor, stiff: Tensor) -> Tensor:
    """``[B, T, C]``: near ``apart`` where ``near`` [B, T] says so, and as even as ``stiff`` [B, T - 1] says.

    The least of near (s - apart)^2 + stiff (s' - s)^2, solved twice: the second time, what lies far off is
    doubted. In float64: the weights span many orders of magnitude.
    """
    apart, near, stiff = apart.double(), near.double(), stiff.double()
    ties = torch.diag_embed(-stiff, 1) + torch.diag_embed(-stiff, -1)
    ties = ties + torch.diag_embed(F.pad(stiff, (0, 1)) + F.pad(stiff, (1, 0)))
    smooth, weight = apart, near
    for _ in range(2):
        matrix = ties + torch.diag_embed(weight + 1e-6)
        smooth = torch.linalg.solve(matrix, weight[..., None] * apart)
        weight = near / (1 + near * (smooth - apart).square().sum(-1) / _DOUBT)
    return smooth.float()
