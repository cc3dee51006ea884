"""How long steps take, to say how many denoising passes fit before a deadline."""

from __future__ import annotations

from collections.abc import Sequence

_MEMORY = 0.8
"""Share of the old estimate that a new measurement leaves."""


class LatencyModel:
    """Running estimates of a step's seconds by batch size and number of passes K, one of ``allowed``."""

    def __init__(self, allowed: Sequence[int]) -> None:
        self._allowed = sorted(allowed)
        self._seconds: dict[tuple[int, int], float] = {}

    def record(self, batch: int, denoising_steps: int, seconds: float) -> None:
        """Take in a measurement."""
        key = (batch, denoising_steps)
        old = self._seconds.get(key, seconds)
        self._seconds[key] = _MEMORY * old + (1 - _MEMORY) * seconds

    def max_steps_within(self, batch: int, denoising_steps: int, deadline: float) -> int:
        """The most passes, at most ``denoising_steps``, that ``deadline`` seconds leave time for; 1 if none do.

        What was never measured counts as in time, so that it is measured.
        """
        for passes in reversed(self._allowed):
            if passes <= denoising_steps and self._seconds.get((batch, passes), 0.0) <= deadline:
                return passes
        return self._allowed[0]
