"""Threads for a row that is stepped alone: all, or one while other processes keep the cores busy.

Threads of one step wait for each other some sixty times. Where another process takes turns on a core, each
time the rest waits for the one that is not running, and a step on two threads takes three times as long, or a
hundred times, as on one. Nobody tells a process so; it is measured.
"""

from __future__ import annotations

_WARM = 3
"""Steps before one thread is measured for the first time."""
_AGAIN = 256
"""Steps after which it is measured again."""
_MARGIN = 1.1
"""Times as long as one thread that all must take to be slow; and the inverse to be quick again."""
_TURNS = 2
"""Slow steps in a row before one thread goes on alone."""
_SHARE = 0.05
"""Of the time, what trying all threads again may take; and the least seconds between tries."""
_LEAST = 0.25


class ThreadTuner:
    """The number of threads for steps of one kind, which take equally long.

    Args:
        threads: of the whole machine, or as many as are allowed.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._crowded = False
        self._single: float | None = None
        self._steps = self._slow = 0
        self._lost = self._wait = 0.0

    def choose(self) -> int:
        """How many threads the next step takes."""
        if self._crowded:
            return self._threads if self._wait <= 0 else 1
        return 1 if self._steps % _AGAIN == _WARM else self._threads

    def record(self, threads: int, seconds: float) -> None:
        """Take in how long the step that was picked for took."""
        self._steps += 1
        if threads == 1:
            known = self._single if self._crowded and self._single is not None else seconds
            self._single, self._wait = 0.8 * known + 0.2 * seconds, self._wait - seconds
        elif self._single is not None:
            self._compare(seconds, self._single)

    def _compare(self, seconds: float, single: float) -> None:
        """Judge all threads by a step of theirs and one of a single thread."""
        if self._crowded:
            self._crowded = seconds > single / _MARGIN
            self._lost = seconds - single
        else:
            slow = seconds > single * _MARGIN
            self._slow, self._lost = (self._slow + 1, self._lost + seconds - single) if slow else (0, 0.0)
            self._crowded = self._slow >= _TURNS
        if self._crowded:
            self._wait, self._slow = max(_LEAST, self._lost / _SHARE), 0
        else:
            self._lost = self._lost if self._slow else 0.0
