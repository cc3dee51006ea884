"""Rigid motions as tensors against those in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim import camera
from worldsim.sampling import se3


def twists(count: int, angle: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(count, 3))
    axis *= angle / np.linalg.norm(axis, axis=1, keepdims=True)
    return np.concatenate([rng.normal(size=(count, 3)), axis], 1)


@pytest.mark.parametrize("angle", [0.0, 1e-13, 1e-6, 0.05, 0.0999, 0.1001, 1.0, 3.0, np.pi - 1e-7])
def test_the_same_as_on_the_host(angle: float) -> None:
    twist = twists(7, angle)
    pose = camera.exp(twist)
    np.testing.assert_allclose(se3.exp(torch.from_numpy(twist)).numpy(), pose, atol=1e-13)
    np.testing.assert_allclose(se3.log(torch.from_numpy(pose)).numpy(), camera.log(pose), atol=1e-12)


def test_motions_between_poses() -> None:
    a, b = camera.exp(twists(5, 0.7)), camera.exp(twists(5, 2.0)[::-1])
    got = se3.relative(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(got, camera.relative(a, b), atol=1e-13)


def test_planar_coordinates() -> None:
    poses = camera.from_planar(np.arange(5.0), -1.0, 1.5, np.linspace(-3, 3, 5))
    got = se3.planar(torch.from_numpy(poses))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), camera.planar(poses), atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_row_is_moved_alike_in_every_batch(size: int) -> None:
    a, b = torch.from_numpy(camera.exp(twists(32, 0.7))), torch.from_numpy(camera.exp(twists(32, 2.0)[::-1]))
    twist = torch.from_numpy(twists(32, 0.3))
    for moved, given in ((se3.exp, (twist,)), (se3.log, (a,)), (se3.relative, (a, b)), (se3.planar, (a,))):
        whole = moved(*given)
        for first in range(0, 32, size):
            part = moved(*(value[first : first + size] for value in given))
            assert torch.equal(part, whole[first : first + size]), moved.__name__
