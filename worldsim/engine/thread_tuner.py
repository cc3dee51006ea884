"""Number of threads for a row that is stepped alone: all, or one while other processes use the cores.

The threads of a step synchronise some sixty times. If another process shares a core, they wait each time for
the thread that is not running, and a step on two threads takes three to a hundred times as long as on one.
The tuner measures both.
"""

from __future__ import annotations

_WARM = 3
"""Steps before one thread is measured for the first time."""
_AGAIN = 256
"""Steps after which it is measured again."""
_MARGIN = 1.1
"""Ratio of the times on all threads and on one above which all are slow; the inverse ends it."""
_SLOW_STEPS = 2
"""Slow steps in a row before one thread is used."""
_SHARE = 0.05
"""Share of the time that retrying all threads may take; and the least seconds between retries."""
_LEAST = 0.25


class ThreadTuner:
    """Tunes the number of threads for steps of one kind, which take equally long.

    Args:
        threads: threads that may be used.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._crowded = False
        self._single: float | None = None
        self._steps = self._slow = 0
        self._lost = self._wait = 0.0

    def choose(self) -> int:
        """Number of threads for the next step."""
        if self._crowded:
            return self._threads if self._wait <= 0 else 1
        return 1 if self._steps % _AGAIN == _WARM else self._threads

    def record(self, threads: int, seconds: float) -> None:
        """Record the time of the step that the threads were chosen for."""
        self._steps += 1
        if threads == 1:
            known = self._single if self._crowded and self._single is not None else seconds
            self._single, self._wait = 0.8 * known + 0.2 * seconds, self._wait - seconds
        elif self._single is not None:
            self._compare(seconds, self._single)

    def _compare(self, seconds: float, single: float) -> None:
        """Compare the times of a step on all threads and on one."""
        if self._crowded:
            self._crowded = seconds > single / _MARGIN
            self._lost = seconds - single
        else:
            slow = seconds > single * _MARGIN
            self._slow, self._lost = (self._slow + 1, self._lost + seconds - single) if slow else (0, 0.0)
            self._crowded = self._slow >= _SLOW_STEPS
        if self._crowded:
            self._wait, self._slow = max(_LEAST, self._lost / _SHARE), 0
        else:
            self._lost = self._lost if self._slow else 0.0
