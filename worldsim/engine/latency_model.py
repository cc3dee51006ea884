"""Latency model: time of a step by batch size and denoising steps, to keep to a budget."""

from __future__ import annotations

from collections.abc import Sequence

_MEMORY = 0.8
"""Weight of the old estimate where a step took longer; a faster one counts at once, as delays only add."""
_FADE = 0.995
"""Factor of an estimate that was too long, so that the case is tried again some hundred steps later."""


class LatencyModel:
    """Estimates of a step's seconds by batch size and denoising steps K, one of ``allowed``."""

    def __init__(self, allowed: Sequence[int]) -> None:
        self._allowed = sorted(allowed)
        self._seconds: dict[tuple[int, int], float] = {}

    def record(self, batch: int, denoising_steps: int, seconds: float) -> None:
        """Record a measurement."""
        key = (batch, denoising_steps)
        old = self._seconds.get(key, seconds)
        self._seconds[key] = min(seconds, _MEMORY * old + (1 - _MEMORY) * seconds)

    def max_steps_within(self, batch: int, denoising_steps: int, budget: float) -> int:
        """The most denoising steps, up to ``denoising_steps``, within ``budget`` seconds, or the fewest.

        A case that was never measured counts for as long as the longest that was with no more sessions and
        no more steps, and for nothing where there is none: so it is measured.
        """
        for passes in reversed(self._allowed):
            if passes > denoising_steps:
                continue
            if self._estimate(batch, passes) <= budget:
                return passes
            if (batch, passes) in self._seconds:
                self._seconds[batch, passes] *= _FADE
        return self._allowed[0]

    def _estimate(self, batch: int, denoising_steps: int) -> float:
        own = self._seconds.get((batch, denoising_steps))
        if own is not None:
            return own
        known = self._seconds.items()
        return max((s for (rows, k), s in known if rows <= batch and k <= denoising_steps), default=0.0)
