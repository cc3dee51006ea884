"""One metric: a value, how sure it is, and the lower and the upper reference that it stands between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "Metric", "estimate", "metric", "pooled"]

RESAMPLES = 2000
_POOLED_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, or a ratio of means, over trajectories."""

    value: float
    low: float
    """The 95 % interval's lower end, by bootstrap over trajectories."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric of the report."""

    value: float
    ci: tuple[float, float]
    """95 % interval, by bootstrap over trajectories: they are independent, frames within one are not."""
    lower_reference: float | None
    """Lower reference: value of a method without understanding."""
    upper_reference: float | None
    """Upper reference: the best value that can be reached."""
    unit: str
    about: str
    """Description of the metric and of its references."""


def estimate(values: np.ndarray, over: np.ndarray | None = None) -> Estimate:
    """The mean of ``values`` [N trajectories, ...], or their sum over that of ``over`` [N, ...].

    The resampling is the same at every call, so that the same values give the same interval.
    """
    above = _by_trajectory(values)
    below = np.ones_like(above) if over is None else _by_trajectory(over)
    rows = np.random.default_rng(0).integers(len(above), size=(RESAMPLES, len(above)))
    drawn = above[rows].sum(1) / below[rows].sum(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def pooled(statistic: Callable[[np.ndarray], float], count: int) -> Estimate:
    """A statistic of all frames of some trajectories together, e.g. an AUROC.

    ``statistic`` gets the trajectories' numbers, drawn from 0..count - 1 with repeats. Draws for which it is
    not defined (NaN) are left out; where it never is, so is the estimate. The interval is that of the draws,
    moved so that their median is the value: repeats alone make a Frechet distance grow.
    """
    rng = np.random.default_rng(0)
    value = statistic(np.arange(count))
    drawn = np.array([statistic(rng.integers(count, size=count)) for _ in range(_POOLED_RESAMPLES)])
    drawn = drawn[np.isfinite(drawn)]
    low, high = (
        np.quantile(drawn, (0.025, 0.975)) - np.median(drawn) + value if len(drawn) else (value, value)
    )
    return Estimate(float(value), float(low), float(high))


def metric(
    of: Estimate,
    about: str,
    *,
    unit: str = "dB",
    lower_reference: float | None = None,
    upper_reference: float | None = None,
) -> Metric:
    """A metric of an estimate."""
    return Metric(
        value=of.value,
        ci=(of.low, of.high),
        lower_reference=lower_reference,
        upper_reference=upper_reference,
        unit=unit,
        about=about,
    )


def _by_trajectory(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(len(values), -1).mean(1)
