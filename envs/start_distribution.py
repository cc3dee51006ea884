"""Distribution over the starts of episodes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from worldsim.context import Context
from worldsim.errors import ConfigError

__all__ = ["StartDistribution", "Starts"]

Starts: TypeAlias = (
    Sequence[int | Context] | Mapping[int, float] | Callable[[np.random.Generator], int | Context] | None
)
"""Starts, each as likely as the others; weights by start; or what draws one with the generator given."""

_STREAM = 0x57A7
"""Stream of the random numbers that pick starts."""


class StartDistribution:
    """Distribution over starts; an episode's seed fixes its start.

    Args:
        starts: numbers of the world's starts, or given frames as ``Context``, all as likely; a mapping from
            numbers to weights (of any positive sum); a callable of a NumPy generator that returns a number or
            a ``Context``; or None: the engine picks one of all.
        count: how many starts the world has.

    Raises:
        ConfigError: no start, one that the world does not have, or weights that are none.
    """

    def __init__(self, starts: Starts, count: int) -> None:
        self._draw = None if starts is None else _drawing(starts, count)
        listed = () if starts is None or callable(starts) else starts
        self.numbered = not callable(starts) and not any(isinstance(start, Context) for start in listed)
        """True if all are known to be numbers of the world's starts."""

    def draw(self, seed: int) -> int | Context | None:
        """The start of the episode with ``seed``.

        Raises:
            ConfigError: the callable returned something else than a number or a Context.
        """
        if self._draw is None:
            return None
        return _start(self._draw(np.random.default_rng((seed % 2**64, _STREAM))))


def _drawing(starts: Any, count: int) -> Callable[[np.random.Generator], Any]:
    if callable(starts):
        return starts
    if not isinstance(starts, Mapping | Sequence | np.ndarray) or isinstance(starts, str) or not len(starts):
        rule = "starts must be numbers or Contexts, weights by number, or a callable"
        raise ConfigError(rule, starts, "pass e.g. [0, 3], {0: 0.7, 3: 0.3} or lambda rng: rng.integers(4)")
    choices = [_known(start, count) for start in starts]
    shares = _shares(list(starts.values()) if isinstance(starts, Mapping) else [1.0] * len(starts))
    return lambda rng: choices[rng.choice(len(choices), p=shares)]


def _known(start: Any, count: int) -> int | Context:
    start = _start(start)
    if isinstance(start, int) and not 0 <= start < count:
        raise ConfigError(f"a start must be in 0..{count - 1}", start)
    return start


def _start(start: Any) -> int | Context:
    if isinstance(start, Context):
        return start
    try:
        return operator.index(start)
    except TypeError as error:
        raise ConfigError("a start must be a number or a Context", start) from error


def _shares(weights: Sequence[float]) -> np.ndarray:
    """Weights scaled to add up to 1, float64 [number of starts]."""
    shares = np.array(weights, np.float64)
    if not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        rule = "weights of starts must be finite, not negative and not all 0"
        raise ConfigError(rule, shares.tolist())
    return shares / shares.sum()
