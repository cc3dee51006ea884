"""Rigid motions as tensors: what a step needs of ``worldsim.camera``, where the networks are.

The same formulas, in float64. Nothing is checked, for to look at a value is to wait for the device: what
comes in from outside has passed ``camera.check_pose``. B poses [B, 4, 4], camera-to-world; twists [B, 6].
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL_ANGLE = 0.1
"""Below it, series stand in for quotients that would cancel; both are exact to 1e-13 here."""


def exp(twist: Tensor) -> Tensor:
    """Twists (translation in metres, rotation vector in radians) to poses."""
    rho, omega = twist[:, :3], twist[:, 3:]
    angle = _length(omega)[:, None, None]
    w = _hat(omega)
    w2 = w @ w
    a, b = torch.sinc(angle / torch.pi), 0.5 * torch.sinc(0.5 * angle / torch.pi).square()
    eye = torch.eye(3, dtype=twist.dtype, device=twist.device)
    jacobian = eye + b * w + _sine_remainder(angle) * w2
    return _pose(eye + a * w + b * w2, jacobian @ rho[..., None])


def log(pose: Tensor, omega: Tensor | None = None) -> Tensor:
    """Poses to twists, the inverse of ``exp`` for rotations of up to pi.

    ``omega`` is their rotation vector [B, 3], where it is known: to find it is most of the work.
    """
    omega = _rotation_vector(pose[:, :3, :3]) if omega is None else omega
    angle = _length(omega)[:, None, None]
    w = _hat(omega)
    eye = torch.eye(3, dtype=pose.dtype, device=pose.device)
    inverse_jacobian = eye - 0.5 * w + _cotangent_remainder(angle) * (w @ w)
    return torch.cat([(inverse_jacobian @ pose[:, :3, 3:])[..., 0], omega], -1)


def relative(a: Tensor, b: Tensor) -> Tensor:
    """The motion from ``a`` to ``b`` as ``a`` sees it: inverse(a) b."""
    back = a[:, :3, :3].mT
    return _pose(back @ b[:, :3, :3], back @ (b[:, :3, 3:] - a[:, :3, 3:]))


def planar(pose: Tensor) -> Tensor:
    """x, y, z and the yaw of the forward axis on the ground, float32 [B, 4]."""
    yaw = _angle(pose[:, 1, 2], pose[:, 0, 2])
    return torch.cat([pose[:, :3, 3], yaw[:, None]], -1).float()


def _angle(y: Tensor, x: Tensor) -> Tensor:
    """atan2 by way of the half angle's tangent: torch's own rounds the last few of many rows otherwise."""
    size = (x.square() + y.square()).sqrt()
    ahead = y.abs() / (size + x).clamp(min=1e-300)
    behind = (size - x) / y.abs().clamp(min=1e-300)
    half = torch.where(x >= 0, ahead, behind).atan()
    return torch.where(y >= 0, 2 * half, -2 * half)


def _length(v: Tensor) -> Tensor:
    """Lengths [B] of vectors [B, 3]."""
    x, y, z = v.unbind(-1)
    return (x * x + y * y + z * z).sqrt()


def _pose(rotation: Tensor, translation: Tensor) -> Tensor:
    """[B, 3, 3] and [B, 3, 1] to [B, 4, 4]."""
    last = torch.eye(4, dtype=rotation.dtype, device=rotation.device)[3:].expand(len(rotation), -1, -1)
    return torch.cat([torch.cat([rotation, translation], -1), last], -2)


def _hat(v: Tensor) -> Tensor:
    """Vectors [B, 3] to the matrices [B, 3, 3] of their cross product."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def _rotation_vector(rotation: Tensor) -> Tensor:
    """[B, 3, 3] to [B, 3] through the quaternion, which stays accurate near 0 and near pi."""
    quaternion = _quaternion(rotation)
    w, v = quaternion[:, :1], quaternion[:, 1:]
    sine = _length(v)[:, None]
    tiny = sine < 1e-12  # there the half angle is its sine to the last bit
    return torch.where(tiny, 2.0, 2 * _angle(sine, w) / sine.clamp(min=1e-12)) * v


def _quaternion(rotation: Tensor) -> Tensor:
    """Unit quaternions [B, 4] (w first, w >= 0), each computed from its largest component."""
    m = rotation
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2]
    # Row i is 4 * component i * quaternion; the row with the largest diagonal divides by no small number.
    rows = torch.stack([
        torch.stack([1 + xx + yy + zz, wx, wy, wz], -1),
        torch.stack([wx, 1 + xx - yy - zz, xy, xz], -1),
        torch.stack([wy, xy, 1 - xx + yy - zz, yz], -1),
        torch.stack([wz, xz, yz, 1 - xx - yy + zz], -1),
    ], -2)  # fmt: skip
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = rows.gather(1, best[:, None, None].expand(-1, 1, 4))[:, 0]
    row = torch.where(row[:, :1] < 0, -row, row)
    return row / row.norm(dim=-1, keepdim=True)


def _sine_remainder(angle: Tensor) -> Tensor:
    """(angle - sin angle) / angle**3."""
    a2, large = angle.square(), angle.clamp(min=_SMALL_ANGLE)
    series = 1 / 6 - a2 / 120 + a2**2 / 5040 - a2**3 / 362880
    return torch.where(angle < _SMALL_ANGLE, series, (large - large.sin()) / large**3)


def _cotangent_remainder(angle: Tensor) -> Tensor:
    """(1 - (angle / 2) cot(angle / 2)) / angle**2."""
    a2, large = angle.square(), angle.clamp(min=_SMALL_ANGLE)
    series = 1 / 12 + a2 / 720 + a2**2 / 30240 + a2**3 / 1209600
    return torch.where(angle < _SMALL_ANGLE, series, (1 - 0.5 * large / (0.5 * large).tan()) / large**2)
