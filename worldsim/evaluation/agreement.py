"""Agreement of two scores of the same policies: imagined and real.

Shapes: P policies, E episodes of a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.errors import ConfigError

__all__ = ["MEASURES", "Agreement", "agreement", "mean_rank_violation", "pearson", "spearman"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """A measure with its 95 % bootstrap interval; NaN where a score does not vary."""

    value: float
    low: float
    high: float


def pearson(imagined: np.ndarray, real: np.ndarray) -> float:
    """Pearson's correlation of two scores [P]; NaN where one of them does not vary."""
    x, y = imagined - imagined.mean(), real - real.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")


def spearman(imagined: np.ndarray, real: np.ndarray) -> float:
    """Spearman's rank correlation of two scores [P]; equal scores share their mean rank."""
    return pearson(_ranks(imagined), _ranks(real))


def mean_rank_violation(imagined: np.ndarray, real: np.ndarray) -> float:
    """Mean maximum rank violation (MMRV) of two scores [P], in the real score's unit; 0 is best.

    For each policy, the largest difference in the real score to a policy that the imagined score puts on the
    wrong side of it (Li et al., SIMPLER, 2024).
    """
    gaps = np.abs(real[:, None] - real)
    wrong = (imagined[:, None] < imagined) != (real[:, None] < real)
    return float((gaps * wrong).max(1).mean())


MEASURES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "mmrv": mean_rank_violation,
}


def agreement(
    imagined: Sequence[np.ndarray], real: Sequence[np.ndarray], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Agreement]:
    """All ``MEASURES`` of the policies' mean scores.

    Args:
        imagined: scores of each policy's imagined episodes, P arrays [E].
        real: of its real episodes; as many policies.
        resamples: bootstrap resamples of each policy's episodes, for the intervals.
        seed: of the resampling.

    Raises:
        ConfigError: fewer than two policies.
    """
    if len(imagined) < 2:
        raise ConfigError("an agreement needs at least two policies", len(imagined))
    rng = np.random.default_rng(seed)
    drawn = [[_resampled(rng, scores, resamples) for scores in side] for side in (imagined, real)]
    means = [np.array([scores.mean() for scores in side]) for side in (imagined, real)]
    found = {}
    for name, measure in MEASURES.items():
        values = [measure(*pair) for pair in zip(*(np.stack(side, 1) for side in drawn), strict=True)]
        kept = np.array([value for value in values if value == value] or [np.nan])
        low, high = np.percentile(kept, (2.5, 97.5)).tolist()
        found[name] = Agreement(measure(*means), low, high)
    return found


def _resampled(rng: np.random.Generator, scores: np.ndarray, resamples: int) -> np.ndarray:
    """Means [resamples] of episodes drawn with replacement."""
    means: np.ndarray = scores[rng.integers(len(scores), size=(resamples, len(scores)))].mean(1)
    return means


def _ranks(values: np.ndarray) -> np.ndarray:
    smaller = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    ranks: np.ndarray = smaller + (equal - 1) / 2
    return ranks
