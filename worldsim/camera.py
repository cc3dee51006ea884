"""Cameras: SE(3) exp, log, compose and inverse; pinhole intrinsics; rays and Pluecker coordinates.

All in float64 NumPy. A pose is camera-to-world, ``[..., 4, 4]``. World axes: x and y on the ground, z up,
metres. Camera axes (OpenCV): x right, y down, z forward. Pixel (row v, column u) has its centre at
(u + 0.5, v + 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldsim.errors import CameraError

__all__ = [
    "FARTHEST",
    "Intrinsics",
    "check_pose",
    "compose",
    "exp",
    "from_colmap",
    "from_opengl",
    "from_planar",
    "from_quaternion",
    "inverse",
    "level",
    "log",
    "orthonormalise",
    "planar",
    "pluecker",
    "rays",
    "relative",
]

FARTHEST = 1e9
"""Metres from the origin at which poses end: beyond it float32 overflows in squares of squares."""
_UPRIGHT = {
    "z": np.eye(4),
    "y": np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    "-y": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
}
"""Rotations that take a world in which this axis points up to one with z up."""
_SMALL_ANGLE = 0.1
"""Below it, series stand in for quotients that would cancel; both are exact to 1e-13 here."""


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole: focal lengths and principal point, in pixels of the frame.

    Raises:
        CameraError: a number that is not finite, or a focal length that is not positive.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if not all(math.isfinite(v) for v in values):
            raise CameraError("intrinsics must be finite", values)
        if self.fx <= 0 or self.fy <= 0:
            raise CameraError("focal lengths must be positive", (self.fx, self.fy))

    @classmethod
    def from_fov(cls, h_fov_rad: float, w: int, h: int) -> Intrinsics:
        """Square pixels, centred, with a horizontal field of view in (0, pi) radians over ``w`` pixels."""
        if not 0 < h_fov_rad < math.pi:
            raise CameraError("a field of view must be between 0 and pi radians", h_fov_rad)
        focal = 0.5 * w / math.tan(0.5 * h_fov_rad)
        return cls(focal, focal, 0.5 * w, 0.5 * h)

    def scaled(self, sx: float, sy: float) -> Intrinsics:
        """The same camera for a frame whose width is ``sx`` times and whose height ``sy`` times as large."""
        return Intrinsics(self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy)

    def matrix(self) -> np.ndarray:
        """``float64 [3, 3]`` that takes camera coordinates to homogeneous pixels."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)


def exp(xi: np.ndarray) -> np.ndarray:
    """Twists ``[..., 6]`` (translation in metres, rotation vector in radians) to poses ``[..., 4, 4]``."""
    twist = _checked(xi, (6,), "a twist")
    rho, omega = twist[..., :3], twist[..., 3:]
    angle = np.linalg.norm(omega, axis=-1)[..., None, None]
    w = _hat(omega)
    w2 = w @ w
    a = np.sinc(angle / np.pi)
    b = 0.5 * np.sinc(0.5 * angle / np.pi) ** 2
    rotation = np.eye(3) + a * w + b * w2
    jacobian = np.eye(3) + b * w + _sine_remainder(angle) * w2
    return _pose(rotation, (jacobian @ rho[..., None])[..., 0])


def log(T: np.ndarray) -> np.ndarray:
    """Poses ``[..., 4, 4]`` to twists ``[..., 6]``, the inverse of :func:`exp` for rotations of up to pi."""
    pose = check_pose(T)
    omega = _rotation_vector(pose[..., :3, :3])
    angle = np.linalg.norm(omega, axis=-1)[..., None, None]
    w = _hat(omega)
    inverse_jacobian = np.eye(3) - 0.5 * w + _cotangent_remainder(angle) * (w @ w)
    rho = (inverse_jacobian @ pose[..., :3, 3:])[..., 0]
    return np.concatenate([rho, omega], axis=-1)


def compose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b`` for poses ``[..., 4, 4]``: the motion ``b``, seen in the frame of ``a``, done after ``a``."""
    return check_pose(a) @ check_pose(b)


def inverse(T: np.ndarray) -> np.ndarray:
    """The inverse pose, world-to-camera for camera-to-world; exact for rotations, no linear solve."""
    pose = check_pose(T)
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    return _pose(rotation, -(rotation @ pose[..., :3, 3:])[..., 0])


def relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The motion from ``a`` to ``b`` as ``a`` sees it: ``inverse(a) @ b``."""
    return compose(inverse(a), b)


def check_pose(T: np.ndarray, farthest: float = FARTHEST) -> np.ndarray:
    """``T`` as ``float64 [..., 4, 4]``, checked to be rigid to 1e-4 (float32 poses pass).

    Raises:
        CameraError: a wrong shape, NaN or infinity, a last row other than 0 0 0 1, no rotation, or a place
            more than ``farthest`` metres off.
    """
    pose = _checked(T, (4, 4), "a pose")
    place = pose[..., :3, 3]
    wrong = (np.abs(place) > farthest).any(-1)
    if wrong.any():
        rule = f"a pose must lie within {farthest:g} metres of the origin"
        raise CameraError(rule, place[wrong][0].tolist(), "scale poses to metres")
    last, rotation = pose[..., 3, :], pose[..., :3, :3]
    wrong = (np.abs(last - (0, 0, 0, 1)) > 1e-6).any(-1)
    if wrong.any():
        raise CameraError("a pose's last row must be 0 0 0 1", last[wrong][0].tolist(), "give it row-major")
    gram = np.swapaxes(rotation, -1, -2) @ rotation
    wrong = (np.abs(gram - np.eye(3)) > 1e-4).any((-1, -2)) | (np.linalg.det(rotation) < 0)
    if wrong.any():
        rule = "a pose's upper left 3x3 must be a rotation"
        remedy = "camera.orthonormalise() mends rounding; a mirror needs other axes: camera.from_opengl()"
        raise CameraError(rule, rotation[wrong][0].tolist(), remedy)
    return pose


def from_planar(x: Any, y: Any, z: Any, yaw: Any) -> np.ndarray:
    """Level poses ``[..., 4, 4]`` at (x, y, z) metres, looking along ``yaw`` (radians, left of +x)."""
    x, y, z, yaw = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (x, y, z, yaw)))
    pose = np.zeros((*yaw.shape, 4, 4))
    pose[..., 0, 0], pose[..., 1, 0] = np.sin(yaw), -np.cos(yaw)  # right
    pose[..., 2, 1] = -1  # down
    pose[..., 0, 2], pose[..., 1, 2] = np.cos(yaw), np.sin(yaw)  # forward
    pose[..., 0, 3], pose[..., 1, 3], pose[..., 2, 3], pose[..., 3, 3] = x, y, z, 1
    return _checked(pose, (4, 4), "a pose")  # its rotation is one by construction


def planar(pose: np.ndarray) -> np.ndarray:
    """``[..., 4]``: x, y, z, yaw in [-pi, pi] of poses ``[..., 4, 4]``; the inverse of :func:`from_planar`.

    The yaw is that of the forward axis on the ground; a camera that looks straight up or down has none.
    """
    pose = check_pose(pose)
    yaw = np.arctan2(pose[..., 1, 2], pose[..., 0, 2])
    return np.concatenate([pose[..., :3, 3], yaw[..., None]], axis=-1)


def from_opengl(T: np.ndarray, *, up: str = "z") -> np.ndarray:
    """Poses ``[..., 4, 4]`` of OpenGL, Blender or NeRF cameras: x right, y up, looking along -z.

    Args:
        T: camera-to-world.
        up: the axis of their world that points up, "z" (Blender) or "y" (OpenGL, three.js, Unity exports);
            a world with y up is turned about x, so that its -z becomes the world's +y.

    Raises:
        CameraError: no poses, or another axis.
    """
    if up not in _UPRIGHT:
        raise CameraError("the axis that points up must be 'y' or 'z'", up)
    return check_pose(_UPRIGHT[up] @ check_pose(T) @ np.diag([1.0, -1.0, -1.0, 1.0]))


def from_colmap(qvec: np.ndarray, tvec: np.ndarray, *, up: str | None = None) -> np.ndarray:
    """Poses ``[..., 4, 4]`` of COLMAP's images, which have world-to-camera rotations and translations.

    Args:
        qvec: ``[..., 4]``: QW, QX, QY, QZ.
        tvec: ``[..., 3]``: TX, TY, TZ. COLMAP's unit is arbitrary: scale it to metres.
        up: which axis of COLMAP's world points up: "z", "y" or "-y" (cameras that were held upright lead to
            about -y); None leaves the world as it is.

    Raises:
        CameraError: a quaternion or a translation that is none, or another axis.
    """
    if up not in (None, *_UPRIGHT):
        raise CameraError("the axis that points up must be 'y', '-y' or 'z'", up)
    pose = inverse(from_quaternion(qvec, tvec))
    return pose if up is None else check_pose(_UPRIGHT[up] @ pose)


def from_quaternion(quaternion: np.ndarray, translation: np.ndarray, *, order: str = "wxyz") -> np.ndarray:
    """Poses ``[..., 4, 4]`` with a rotation given as a quaternion; its length does not matter.

    Args:
        quaternion: ``[..., 4]``, in ``order``.
        translation: ``[..., 3]``, metres.
        order: "wxyz" (COLMAP, Eigen's constructor, MuJoCo) or "xyzw" (ROS, SciPy, PyBullet).

    Raises:
        CameraError: a wrong shape, a number that is not finite, a zero quaternion, or another order.
    """
    if order not in ("wxyz", "xyzw"):
        raise CameraError("a quaternion's order must be 'wxyz' or 'xyzw'", order)
    q, t = _checked(quaternion, (4,), "a quaternion"), _checked(translation, (3,), "a translation")
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    if (length < 1e-9).any():
        raise CameraError("a quaternion must not be zero", q.tolist(), "the identity is w = 1")
    q = q / length
    w, v = (q[..., :1], q[..., 1:]) if order == "wxyz" else (q[..., 3:], q[..., :3])
    hat = _hat(v)
    rotation = np.eye(3) + 2 * w[..., None] * hat + 2 * hat @ hat
    shape = np.broadcast_shapes(rotation.shape[:-2], t.shape[:-1])
    return _pose(np.broadcast_to(rotation, (*shape, 3, 3)), np.broadcast_to(t, (*shape, 3)))


def level(T: np.ndarray) -> np.ndarray:
    """Poses ``[..., 4, 4]`` without their pitch and roll: at the same place, with the same heading.

    Raises:
        CameraError: no poses, or one that looks straight up or down, which has no heading.
    """
    pose = check_pose(T)
    steep = np.hypot(pose[..., 0, 2], pose[..., 1, 2]) < 1e-6
    if steep.any():
        raise CameraError("a camera that looks straight up or down has no heading", pose[steep][0].tolist())
    return from_planar(*np.moveaxis(planar(pose), -1, 0))


def orthonormalise(T: np.ndarray) -> np.ndarray:
    """Poses ``[..., 4, 4]`` whose rotations are made exact: the nearest rotation to the upper left 3x3.

    It mends rounding and small errors of calibration; a scale is taken out, a mirror is refused.

    Raises:
        CameraError: a wrong shape, NaN or infinity, a mirror, or a matrix that is nearest to no rotation.
    """
    pose = _checked(T, (4, 4), "a pose")
    u, scale, v = np.linalg.svd(pose[..., :3, :3])
    wrong = (scale[..., -1] < 1e-6 * scale[..., 0]) | (np.linalg.det(u @ v) < 0) | (scale[..., 0] == 0)
    if wrong.any():
        rule = "a pose's upper left 3x3 must be near a rotation"
        raise CameraError(rule, pose[wrong][0, :3, :3].tolist(), "see camera.from_opengl for mirrored axes")
    return check_pose(_pose(u @ v, pose[..., :3, 3]))


def rays(K: Intrinsics, h: int, w: int) -> np.ndarray:
    """``float64 [h, w, 3]``: each pixel's ray in camera axes, with z = 1: depth times ray is the point."""
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    return np.stack([(u - K.cx) / K.fx, (v - K.cy) / K.fy, np.ones_like(u)], axis=-1)


def pluecker(pose: np.ndarray, K: Intrinsics, h: int, w: int) -> np.ndarray:
    """``float64 [..., h, w, 6]``: each pixel's world ray: unit direction, then moment origin x direction."""
    pose = check_pose(pose)
    rotation, origin = pose[..., None, None, :3, :3], pose[..., None, None, :3, 3]
    direction = (rotation @ rays(K, h, w)[..., None])[..., 0]
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return np.concatenate([direction, np.cross(origin, direction)], axis=-1)


def _checked(array: np.ndarray, tail: tuple[int, ...], name: str) -> np.ndarray:
    try:
        values = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CameraError(f"{name} must be an array of numbers", array) from error
    if values.shape[-len(tail) :] != tail:
        raise CameraError(f"{name} must have shape [..., {', '.join(map(str, tail))}]", values.shape)
    wrong = ~np.isfinite(values).all(tuple(range(-len(tail), 0)))
    if wrong.any():
        raise CameraError(f"{name} must be finite", values[wrong][0].tolist())
    return values


def _pose(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    pose = np.zeros((*rotation.shape[:-2], 4, 4))
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = rotation, translation, 1
    return pose


def _hat(v: np.ndarray) -> np.ndarray:
    """Vectors ``[..., 3]`` to the matrices ``[..., 3, 3]`` of their cross product."""
    x, y, z = np.moveaxis(v, -1, 0)
    zero = np.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(rows, axis=-1).reshape(*v.shape[:-1], 3, 3)


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """``[..., 3, 3]`` to ``[..., 3]`` through the quaternion, which stays accurate near 0 and near pi."""
    quaternion = _quaternion(rotation)
    w, v = quaternion[..., :1], quaternion[..., 1:]
    sine = np.linalg.norm(v, axis=-1, keepdims=True)
    tiny = sine < 1e-12  # there the half angle is its sine to the last bit
    scale = np.where(tiny, 2.0, 2 * np.arctan2(sine, w) / np.where(tiny, 1.0, sine))
    return scale * v


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternions ``[..., 4]`` (w first, w >= 0), each computed from its largest component."""
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    # Row i is 4 * component i * quaternion; the row with the largest diagonal divides by no small number.
    rows = np.stack([
        np.stack([1 + xx + yy + zz, wx, wy, wz], axis=-1),
        np.stack([wx, 1 + xx - yy - zz, xy, xz], axis=-1),
        np.stack([wy, xy, 1 - xx + yy - zz, yz], axis=-1),
        np.stack([wz, xz, yz, 1 - xx - yy + zz], axis=-1),
    ], axis=-2)  # fmt: skip
    best = np.argmax(np.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    row = np.take_along_axis(rows, best[..., None, None], axis=-2)[..., 0, :]
    row = np.where(row[..., :1] < 0, -row, row)
    return row / np.linalg.norm(row, axis=-1, keepdims=True)


def _sine_remainder(angle: np.ndarray) -> np.ndarray:
    """(angle - sin angle) / angle**3."""
    a2 = angle**2
    series = 1 / 6 - a2 / 120 + a2**2 / 5040 - a2**3 / 362880
    large = np.maximum(angle, _SMALL_ANGLE)
    return np.where(angle < _SMALL_ANGLE, series, (large - np.sin(large)) / large**3)


def _cotangent_remainder(angle: np.ndarray) -> np.ndarray:
    """(1 - (angle / 2) cot(angle / 2)) / angle**2."""
    a2 = angle**2
    series = 1 / 12 + a2 / 720 + a2**2 / 30240 + a2**3 / 1209600
    large = np.maximum(angle, _SMALL_ANGLE)
    return np.where(angle < _SMALL_ANGLE, series, (1 - 0.5 * large / np.tan(0.5 * large)) / large**2)
