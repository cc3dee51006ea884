from __future__ import annotations

import numpy as np
import pytest

from worldsim.camera import from_planar
from worldsim.evaluation.image_metrics import MAX_PSNR, gradient, motion, pose_errors, psnr


def test_psnr_is_of_each_frame_alone() -> None:
    a = np.full((2, 4, 5, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 51  # a fifth of the range: 20 log10(5)
    assert psnr(a, b).tolist() == [MAX_PSNR, pytest.approx(13.9794, abs=1e-3)]
    assert psnr(b, a).tolist() == psnr(a, b).tolist()


def test_psnr_of_black_and_white_is_zero() -> None:
    black = np.zeros((4, 5, 3), np.uint8)
    assert psnr(black, ~black) == pytest.approx(0)


def test_the_gradient_is_the_slope_in_grey_levels() -> None:
    y, x = np.mgrid[:6, :8]
    slope = np.repeat((3 * x + 4 * y)[..., None], 3, -1).astype(np.uint8)
    assert gradient(slope) == pytest.approx(5)
    assert gradient(np.stack([slope, np.full_like(slope, 9)])).tolist() == [pytest.approx(5), 0]


def test_a_blurred_picture_has_less_gradient() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.float32)
    blurred = (noise[:-1, :-1] + noise[1:, :-1] + noise[:-1, 1:] + noise[1:, 1:]) / 4
    assert gradient(blurred) < 0.7 * gradient(noise)


def test_motion_is_the_mean_change() -> None:
    a = np.zeros((2, 2, 2, 3), np.uint8)
    b = a.copy()
    b[1, 0] = 20
    assert motion(a, b).tolist() == [0, 10]


def test_pose_errors_are_metres_and_degrees() -> None:
    a = from_planar([0.0, 0.0], [0.0, 0.0], 1.0, [3.0, 0.0])
    b = from_planar([3.0, 0.0], [4.0, 0.0], 1.0, [-3.0, np.pi / 2])
    metres, degrees = pose_errors(a, b)
    assert metres.tolist() == [pytest.approx(5), 0]
    assert degrees.tolist() == [pytest.approx(np.degrees(2 * np.pi - 6)), pytest.approx(90)]
