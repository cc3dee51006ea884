"""Noise drawn on the device against the host's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.sampling import philox
from worldsim.sampling.noise import normal_batch

SEEDS = [0, 1, 7, 2**31, 2**63, 2**64 - 1]


@pytest.mark.parametrize("draw", [0, 3, 2**32])
def test_the_same_bits_as_numpy(draw: int) -> None:
    index = 5
    seeds = torch.tensor([philox.signed(seed) for seed in SEEDS])
    got = philox._bits(seeds, torch.full_like(seeds, index), draw, 10).numpy().view(np.uint64)
    for row, seed in zip(got, SEEDS, strict=True):
        key = np.array([seed, draw], np.uint64)
        np.testing.assert_array_equal(row, np.random.Philox(key=key, counter=[0, 0, index, 0]).random_raw(10))


@pytest.mark.parametrize("shape", [(1,), (5, 3), (48, 96)])
def test_the_same_noise_to_the_last_bit_or_so(shape: tuple[int, ...]) -> None:
    indices = np.arange(len(SEEDS)) * 1000
    there = philox.normal_rows(
        torch.tensor([philox.signed(seed) for seed in SEEDS]), torch.from_numpy(indices), 0, shape
    )
    here = normal_batch(np.array(SEEDS, np.uint64), indices, 0, shape)
    assert there.dtype == torch.float32
    np.testing.assert_allclose(there.numpy(), here, rtol=3e-7, atol=1e-12)


@pytest.mark.parametrize("number", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, -1])
def test_bits_survive_as_signed_numbers(number: int) -> None:
    there = torch.tensor([philox.signed(number)])
    assert int(there) % 2**64 == number % 2**64
