"""A stage of training: parameter groups, an objective and a fraction of the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

Logs = dict[str, float | Tensor]
Objective = Callable[[np.random.Generator, float], tuple[Tensor, Logs]]
"""(rng, progress in [0, 1]) -> (loss to descend, metrics to log)."""


@dataclass(frozen=True)
class ParamGroup:
    """Parameters, their peak learning rate and their weight decay."""

    parameters: list[nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One entry of a training plan."""

    name: str
    time_fraction: float
    """Share of the minutes, normalised over the stages that run."""
    param_groups: list[ParamGroup]
    objective: Objective
    on_start: Callable[[], object] | None = None
    """Callback before the stage's first step; not called when the stage is resumed."""
    plateau: float = 0.4
    """Share of the stage at the peak learning rate, before it falls linearly."""
    companions: nn.Module | None = None
    """Networks that train beside the world's and are no part of it; they are saved with the state."""
    should_end: Callable[[], str | None] | None = None
    """Asked after every step: the reason to end the stage before its time, or None."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of AdamW's moments."""


def lr_factor(progress: float, step: int, plateau: float) -> float:
    """Return lr / peak lr: 20 steps of warm-up, constant up to ``plateau``, then a linear fall to 2 %."""
    fall = 1.0 if progress < plateau else max(0.02, (1 - progress) / (1 - plateau))
    return min(1.0, (step + 1) / 20) * fall
