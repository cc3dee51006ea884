"""One request of a session at a time, in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Calls what ``take`` is given one after another, each once ``leave`` was called for the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._free = True
        self._calling = False

    def take(self, begin: Callable[[], None]) -> None:
        """Have ``begin`` called when its turn comes: at once, or by whoever leaves. It must not raise."""
        with self._lock:
            self._waiting.append(begin)
        self._call()

    def wait(self) -> None:
        """Block until it is the caller's turn."""
        come = threading.Event()
        self.take(come.set)
        come.wait()

    def leave(self) -> None:
        """The turn is over; may be called from within ``begin``."""
        with self._lock:
            self._free = True
        self._call()

    def _call(self) -> None:
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
