"""Noise is drawn by kernels as by NumPy."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from tests.kernels.compare import built, same
from worldsim.kernels.noise import normal_rows
from worldsim.sampling.noise import normal, normal_batch
from worldsim.sampling.philox import signed

pytestmark = built


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (48, 16), (3, 7, 11)])
def test_numbers_are_numpy_s(shape: tuple[int, ...]) -> None:
    seeds = np.random.default_rng(0).integers(0, 2**64, 6, np.uint64)
    indices = np.array([0, 1, 2, 1000, 2**31, 2**40])
    wanted = normal_batch(seeds, indices, 3, shape)
    given = torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(indices)
    drawn = normal_rows(*given, 3, shape)
    assert drawn.dtype == torch.float32
    np.testing.assert_allclose(drawn.numpy(), wanted, rtol=2e-7, atol=1e-12)
    assert (drawn.numpy() == wanted).mean() > 0.99
    same(normal_rows(*(part[4:5] for part in given), 3, shape)[0], drawn[4])


@hypothesis.given(
    seed=st.integers(0, 2**64 - 1), index=st.integers(0, 2**63 - 1), draw=st.integers(0, 2**64 - 1)
)
def test_any_seed_number_and_draw(seed: int, index: int, draw: int) -> None:
    drawn = normal_rows(torch.tensor([signed(seed)]), torch.tensor([index]), draw, (9,))
    np.testing.assert_allclose(drawn.numpy()[0], normal(seed, index, draw, 9), rtol=2e-7, atol=1e-12)
