from __future__ import annotations

import numpy as np
import pytest

from worldsim.evaluation.metric import estimate


def test_a_mean_lies_in_its_interval() -> None:
    values = np.random.default_rng(0).normal(3, 1, (400, 5))
    result = estimate(values)
    assert result.value == pytest.approx(values.mean())
    assert result.low < result.value < result.high
    # The means of five normals have a deviation of 1 / sqrt(5); 400 of them, of 1 / sqrt(2000).
    assert result.high - result.low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.15)


def test_only_trajectories_count_as_independent() -> None:
    values = np.random.default_rng(0).normal(size=(20, 1))
    few, many = estimate(values), estimate(np.repeat(values, 50, 1))
    assert (many.low, many.high) == pytest.approx((few.low, few.high))


def test_a_ratio_is_of_sums() -> None:
    assert estimate(np.array([1.0, 9.0]), np.array([2.0, 2.0])).value == 2.5
    constant = estimate(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    assert constant.low == constant.value == constant.high == 0.5


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=(16, 3))
    assert estimate(values) == estimate(values.copy())
