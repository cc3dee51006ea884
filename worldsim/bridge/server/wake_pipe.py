"""Self-pipe that wakes a poll loop from another thread."""

from __future__ import annotations

import contextlib
import os
import threading

__all__ = ["WakePipe"]


class WakePipe:
    """Non-blocking pipe: a byte in it means that the loop has work."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        """File descriptor to watch."""
        for end in (self.reader, self._writer):
            os.set_blocking(end, False)
        self._lock, self._open = threading.Lock(), True

    def wake(self) -> None:
        """Make the reader readable; may be called from any thread."""
        # Under a lock: a descriptor that is closed in between may be another file's by then.
        with self._lock, contextlib.suppress(BlockingIOError):  # full: it is awake already
            if self._open:
                os.write(self._writer, b"\0")

    def drain(self) -> None:
        """Read all pending bytes."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, 65536)

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._open = False
            for end in (self.reader, self._writer):
                os.close(end)
