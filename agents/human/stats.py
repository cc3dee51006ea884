"""Timings: the engine's time per frame, and frames per second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np


class Stats:
    """Timings of engine steps and of whole frames over the last ``window`` of each.

    ``clock`` returns seconds; another one may be given to test.
    """

    def __init__(self, window: int = 240, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._steps_ms: deque[float] = deque(maxlen=window)
        self._ticks: deque[float] = deque(maxlen=max(window // 4, 2))
        self.frames = 0
        self.step_seconds = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Times one engine step. A step that raises is not counted."""
        begun = self._clock()
        yield
        seconds = self._clock() - begun
        self._steps_ms.append(1000.0 * seconds)
        self.step_seconds += seconds
        self.frames += 1
        self._ticks.append(begun + seconds)

    def pause(self) -> None:
        """Forget when the last frames came, so that a pause does not count as slowness."""
        self._ticks.clear()

    @property
    def recent_ms(self) -> list[float]:
        """The last steps' times in milliseconds, oldest first."""
        return list(self._steps_ms)

    def percentile(self, p: float) -> float:
        """The p-th percentile (0 to 100) of recent step times in milliseconds; 0.0 before the first step."""
        return float(np.percentile(self._steps_ms, p)) if self._steps_ms else 0.0

    @property
    def engine_fps(self) -> float:
        """Frames a second that the engine alone reaches, over everything that was timed."""
        return self.frames / self.step_seconds if self.step_seconds > 0 else 0.0

    @property
    def loop_fps(self) -> float:
        """Frames a second as walked lately, drawing, waiting and all; 0.0 while it is unknown."""
        if len(self._ticks) < 2:
            return 0.0
        span = self._ticks[-1] - self._ticks[0]
        return (len(self._ticks) - 1) / span if span > 0 else 0.0
