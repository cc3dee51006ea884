"""A stage of training: which weights, at which rates, on which objective, for which share of the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

Logs = dict[str, float | Tensor]
Objective = Callable[[np.random.Generator, float], tuple[Tensor, Logs]]
"""(rng, progress in [0, 1]) -> (loss to descend, figures to log)."""


@dataclass(frozen=True)
class Rate:
    """Some weights and their peak learning rate."""

    parameters: list[nn.Parameter]
    peak: float
    decay: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One entry of a training plan."""

    name: str
    share: float
    """Share of the minutes given."""
    rates: list[Rate]
    objective: Objective
    start: Callable[[], None] | None = None
    """Called once before the stage's first step, not when it is resumed."""
    hold: float = 0.4
    """Share of the stage at the peak rate, before it falls linearly."""


def rate_at(progress: float, step: int, hold: float) -> float:
    """The share of the peak rate: 20 steps of warm-up, a plateau up to ``hold``, a linear fall to 2 %."""
    fall = 1.0 if progress < hold else max(0.02, (1 - progress) / (1 - hold))
    return min(1.0, (step + 1) / 20) * fall
