"""Latency model: time of a step by batch size and denoising steps, to meet a deadline."""

from __future__ import annotations

from collections.abc import Sequence

_MEMORY = 0.8
"""Weight of the old estimate in the moving average."""


class LatencyModel:
    """Moving averages of a step's seconds by batch size and denoising steps K, one of ``allowed``."""

    def __init__(self, allowed: Sequence[int]) -> None:
        self._allowed = sorted(allowed)
        self._seconds: dict[tuple[int, int], float] = {}

    def record(self, batch: int, denoising_steps: int, seconds: float) -> None:
        """Record a measurement."""
        key = (batch, denoising_steps)
        old = self._seconds.get(key, seconds)
        self._seconds[key] = _MEMORY * old + (1 - _MEMORY) * seconds

    def max_steps_within(self, batch: int, denoising_steps: int, deadline: float) -> int:
        """The most denoising steps, up to ``denoising_steps``, that fit into ``deadline`` seconds, or 1.

        A case that was never measured counts as fitting, so that it is measured.
        """
        for passes in reversed(self._allowed):
            if passes <= denoising_steps and self._seconds.get((batch, passes), 0.0) <= deadline:
                return passes
        return self._allowed[0]
