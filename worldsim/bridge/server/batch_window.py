"""Batch window: how long a batch waits for sessions that are about to step again.

Clients that step in a loop ask for the next frame a moment after they received the last. A batch without them
makes them wait a whole step, and batches split up. So a batch waits for a small part of a step, but only
for sessions that were prompt last time: a slower client is not waited for until it is prompt again.
"""

from __future__ import annotations

__all__ = ["BatchWindow"]

_SMOOTH = 0.2


class BatchWindow:
    """Sessions to wait for, and until when. Times are seconds on one clock.

    Args:
        share: of a step's time that a batch waits at most.
        limit: seconds that it waits at most.
    """

    def __init__(self, share: float = 0.2, limit: float = 0.25) -> None:
        self._share, self._limit = share, limit
        self._answered_at: dict[str, float] = {}
        self._slow: set[str] = set()
        self._expected: set[str] = set()
        self.step_seconds = 0.0
        """Smoothed duration of a batch."""

    @property
    def seconds(self) -> float:
        """Window: seconds after a reply in which the next request counts as prompt."""
        return min(self._share * self.step_seconds, self._limit)

    @property
    def expecting(self) -> bool:
        """True if some session is still expected."""
        return bool(self._expected)

    def record_batch(self, seconds: float) -> None:
        """Record the duration of a batch."""
        old = self.step_seconds
        self.step_seconds = seconds if not old else old + _SMOOTH * (seconds - old)

    def record_answer(self, session: str, now: float) -> None:
        """Record a reply; the session is expected to ask again."""
        self._answered_at[session] = now
        if session not in self._slow:
            self._expected.add(session)

    def record_request(self, session: str, now: float) -> None:
        """Record a request."""
        self._expected.discard(session)
        if now - self._answered_at.get(session, now) <= self.seconds:
            self._slow.discard(session)

    def give_up(self) -> None:
        """End the window; missing sessions are not expected until they are prompt again."""
        self._slow |= self._expected
        self._expected.clear()

    def forget(self, session: str) -> None:
        """Forget a closed session."""
        self._answered_at.pop(session, None)
        self._slow.discard(session)
        self._expected.discard(session)
