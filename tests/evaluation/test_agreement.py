"""Agreement of imagined and real scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldsim.errors import ConfigError
from worldsim.evaluation.agreement import agreement, mean_rank_violation, pearson, spearman


def test_correlations() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert pearson(x, 2 * x + 1) == pytest.approx(1)
    assert pearson(x, -x) == pytest.approx(-1)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 5.0])) == pytest.approx(1)
    y = np.array([10.0, 9.0, 30.0, 20.0])
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(0.6)
    assert math.isnan(pearson(x, np.ones(4)))


def test_rank_violation() -> None:
    real = np.array([100.0, 200.0, 400.0])
    assert mean_rank_violation(np.array([1.0, 2.0, 3.0]), real) == 0
    assert mean_rank_violation(np.array([2.0, 1.0, 3.0]), real) == pytest.approx((100 + 100 + 0) / 3)
    assert mean_rank_violation(np.array([3.0, 2.0, 1.0]), real) == pytest.approx((300 + 200 + 300) / 3)
    assert mean_rank_violation(np.ones(3), real) > 0  # a judge that sees no difference


def test_intervals() -> None:
    rng = np.random.default_rng(0)
    means = np.array([10.0, 20.0, 30.0, 40.0])
    real = [rng.normal(mean, 8, 50) for mean in means]
    good, poor = ([rng.normal(mean, 8, 50) for mean in order] for order in (means, means[[1, 0, 3, 2]]))
    found, other = agreement(good, real), agreement(poor, real)
    assert found == agreement(good, real)
    assert found["spearman"].value == pytest.approx(1)
    assert found["pearson"].low <= found["pearson"].value <= found["pearson"].high <= 1
    assert found["pearson"].high - found["pearson"].low < 0.2
    assert found["mmrv"].value == 0
    assert other["mmrv"].value > 5
    assert other["mmrv"].low > found["mmrv"].high
    with pytest.raises(ConfigError, match="two policies"):
        agreement(real[:1], real[:1])
