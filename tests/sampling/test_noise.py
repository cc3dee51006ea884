"""A frame's noise depends on (seed, index, draw) and on nothing else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.sampling.noise import normal, normal_batch

seeds = st.integers(0, 2**64 - 1)


@given(seeds, st.integers(0, 10**6), st.integers(0, 2**32), st.integers(1, 9))
def test_same_place_same_numbers(seed: int, index: int, draw: int, count: int) -> None:
    first = normal(seed, index, draw, count)
    assert (first.shape, first.dtype) == ((count,), np.float32)
    np.testing.assert_array_equal(first, normal(seed, index, draw, count))


@pytest.mark.parametrize("seed", [0, 7, 2**63, 2**64 - 2])
def test_other_places_other_numbers(seed: int) -> None:
    here = normal(seed, 3, 0, 64)
    for other in (normal(seed + 1, 3, 0, 64), normal(seed, 4, 0, 64), normal(seed, 3, 1, 64)):
        assert np.abs(here - other).min() > 0
        assert abs(np.corrcoef(here, other)[0, 1]) < 0.5


def test_streams_do_not_overlap() -> None:
    streams = [normal(5, index, draw, 1000) for index in range(4) for draw in range(3)]
    assert len(np.unique(np.concatenate(streams))) > 0.999 * 12_000


def test_large_seeds_are_exact() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = normal(2**63 + 1, 0, 0, 4), normal(2**63 + 2, 0, 0, 4)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(normal(-1, 0, 0, 4), normal(2**64 - 1, 0, 0, 4))


def test_it_looks_standard_normal() -> None:
    draws = normal(5, 0, 0, 200_001).astype(np.float64)
    assert abs(draws.mean()) < 0.01
    assert abs(draws.std() - 1) < 0.01
    assert abs((draws**3).mean()) < 0.05
    assert abs((draws**4).mean() - 3) < 0.1
    assert abs((np.abs(draws) < 1).mean() - 0.6827) < 0.01
    assert abs(np.corrcoef(draws[:100_000], draws[100_001:])[0, 1]) < 0.02


@given(st.lists(st.tuples(seeds, st.integers(0, 1000)), min_size=1, max_size=5))
def test_a_row_does_not_depend_on_the_batch(places: list[tuple[int, int]]) -> None:
    seed, index = np.array([p[0] for p in places], np.uint64), np.array([p[1] for p in places])
    batch = normal_batch(seed, index, 2, (3, 5))
    assert batch.shape == (len(places), 3, 5)
    for row, (s, i) in zip(batch, places, strict=True):
        np.testing.assert_array_equal(row.ravel(), normal(s, i, 2, 15))
