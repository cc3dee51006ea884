"""Serial queue: one request of a session at a time, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["SerialQueue"]


class SerialQueue:
    """Queue of calls, each run once ``release`` was called for the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._free = True
        self._calling = False

    def enqueue(self, begin: Callable[[], None]) -> None:
        """Queue ``begin``; it is called at once, or by ``release``. It must not raise."""
        with self._lock:
            self._waiting.append(begin)
        self._run_next()

    def acquire(self) -> None:
        """Queue the caller and block until its turn."""
        turn_came = threading.Event()
        self.enqueue(turn_came.set)
        turn_came.wait()

    def release(self) -> None:
        """End the current turn; may be called from within ``begin``."""
        with self._lock:
            self._free = True
        self._run_next()

    def _run_next(self) -> None:
        """Run queued calls, in a loop and not by recursion: a thousand may fail at once."""
        while True:
            with self._lock:
                if self._calling or not self._free or not self._waiting:
                    return
                self._calling, self._free = True, False
                begin = self._waiting.popleft()
            begin()
            with self._lock:
                self._calling = False
