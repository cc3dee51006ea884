"""One request of a session at a time, in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["SerialQueue"]


class SerialQueue:
    """Calls what ``enqueue`` is given one after another, each once ``release`` was called for the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._free = True
        self._calling = False

    def enqueue(self, begin: Callable[[], None]) -> None:
        """Have ``begin`` called when its turn comes: at once, or by whoever leaves. It must not raise."""
        with self._lock:
            self._waiting.append(begin)
        self._run_next()

    def acquire(self) -> None:
        """Block until it is the caller's turn."""
        turn_came = threading.Event()
        self.enqueue(turn_came.set)
        turn_came.wait()

    def release(self) -> None:
        """The turn is over; may be called from within ``begin``."""
        with self._lock:
            self._free = True
        self._run_next()

    def _run_next(self) -> None:
        """A loop and not a recursion: a thousand that wait may all fail at once."""
        while True:
            with self._lock:
                if self._calling or not self._free or not self._waiting:
                    return
                self._calling, self._free = True, False
                begin = self._waiting.popleft()
            begin()
            with self._lock:
                self._calling = False
