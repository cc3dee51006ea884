"""Metrics of frames and cameras: PSNR, sharpness, frame difference, pose errors. NumPy only.

Shapes: ... batch axes, H x W frame.
"""

from __future__ import annotations

import numpy as np

from worldsim import camera

__all__ = [
    "CHANGED",
    "MAX_PSNR",
    "changed_pixels",
    "gradient",
    "motion",
    "pose_errors",
    "psnr",
    "squared_error",
]

MAX_PSNR = 60.0
"""Cap of the PSNR in dB, so that two identical frames do not make a mean infinite."""

CHANGED = 12
"""Grey levels; a pixel has changed if any channel differs by more."""


def changed_pixels(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the pixels ``bool [..., H, W]`` that changed visibly between ``uint8 [..., H, W, 3]`` frames."""
    return (np.abs(np.subtract(now, before, dtype=np.int16)) > CHANGED).any(-1)


def squared_error(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the sum ``float64 [...]`` over the pixels ``where`` of the squared error, colours in 0..1."""
    error = np.square(np.subtract(a, b, dtype=np.float32) / 255).mean(-1)
    return (error * where).sum((-2, -1), dtype=np.float64)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the PSNR in dB, ``float64 [...]``, of each frame ``uint8 [..., H, W, 3]``.

    The mean squared error is over all pixels and channels of a frame, on a scale of 0 to 1.
    """
    difference = np.subtract(a, b, dtype=np.float32) / 255
    error = np.square(difference).mean((-3, -2, -1), dtype=np.float64)
    return np.minimum(-10 * np.log10(np.maximum(error, 1e-10)), MAX_PSNR)


def gradient(frames: np.ndarray) -> np.ndarray:
    """Return the mean length ``float64 [...]`` of the brightness gradient of frames ``[..., H, W, 3]``.

    In grey levels (0 to 255) per pixel; brightness is the mean of the channels.
    """
    grey = np.asarray(frames).mean(-1, dtype=np.float32)
    if min(grey.shape[-2:]) < 2:
        return np.zeros(grey.shape[:-2])
    across = grey[..., :-1, 1:] - grey[..., :-1, :-1]
    down = grey[..., 1:, :-1] - grey[..., :-1, :-1]
    return np.hypot(across, down).mean((-2, -1), dtype=np.float64)


def motion(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean absolute change ``float64 [...]`` between frames ``uint8``, in grey levels."""
    return np.abs(np.subtract(a, b, dtype=np.float32)).mean((-3, -2, -1), dtype=np.float64)


def pose_errors(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distance in metres and angle in degrees between poses ``[..., 4, 4]``, ``float64 [...]``."""
    turn = camera.log(camera.relative(a, b))[..., 3:]
    metres = np.linalg.norm(a[..., :3, 3] - b[..., :3, 3], axis=-1)
    return metres, np.degrees(np.linalg.norm(turn, axis=-1))
