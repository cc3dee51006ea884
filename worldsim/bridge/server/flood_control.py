"""Limits of the time that malformed messages cost the thread that reads them."""

from __future__ import annotations

__all__ = ["FloodControl"]

_PER_SOCKET = 4
"""Malformed messages of one socket per turn."""
_PAUSES = (0.001, 0.005)
"""Shortest and longest pause in seconds after a malformed message."""


class FloodControl:
    """Counts malformed messages in one turn of a loop, and says how long to pause after them.

    A flood of malformed messages gets a third of the thread's time at most, so that other clients' steps
    continue. Used by one thread.
    """

    def __init__(self) -> None:
        self._count = self._most = 0

    def start_socket(self) -> None:
        """Begin to read one socket."""
        self._most = self._count + _PER_SOCKET

    def count(self) -> None:
        """Count a malformed message."""
        self._count += 1

    @property
    def exhausted(self) -> bool:
        """True once a socket has had its malformed messages in this turn."""
        return self._count >= self._most

    def end_turn(self, worked: float) -> float:
        """Return the pause in seconds after a turn of ``worked`` seconds, 0 if no message was malformed."""
        if not self._count:
            return 0.0
        self._count = 0
        shortest, longest = _PAUSES
        return min(max(2 * worked, shortest), longest)
