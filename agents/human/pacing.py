"""Steady time: when the next frame of the world is due."""

from __future__ import annotations


class Pacer:
    """Keeps ``fps`` frames a second; ``fps`` 0 means that a frame is always due.

    A late frame does not shift the beat, but after a long hold-up the lost beats are dropped instead of
    rushed through.
    """

    MAX_LAG = 3  # beats that may be caught up

    def __init__(self, fps: float) -> None:
        self.period = 1.0 / fps if fps > 0 else 0.0
        self._next: float | None = None

    def wait(self, now: float) -> float:
        """Seconds from ``now`` until the next frame is due, 0.0 if it is due already."""
        if self._next is None or not self.period:
            return 0.0
        return max(self._next - now, 0.0)

    def beat(self, now: float) -> None:
        """A frame was made at ``now``."""
        due = now if self._next is None else self._next
        if now - due > self.MAX_LAG * self.period:
            due = now
        self._next = due + self.period
