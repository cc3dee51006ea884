"""Pending request: sent, retried, and answered or timed out."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from worldsim.bridge.client.errors import RETRYABLE, UnansweredError, error_from_reply
from worldsim.bridge.wire.protocol import Message, encode, parse_error

__all__ = ["PendingRequest"]

_FIRST_RETRY, _LONGEST_RETRY = 1.0, 10.0
"""Shortest and longest retry interval in seconds."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """Request with the bytes to send it again unchanged.

    Raises:
        BridgeError: ``RESOURCE_EXHAUSTED`` where the server would refuse its size.
    """

    header: dict[str, Any]
    payloads: Sequence[Any]
    seconds: float
    """Seconds until it times out."""
    is_heartbeat: bool = False
    """True for a heartbeat, which is sent once."""
    parts: list[Any] = field(init=False)
    answer: Future[Message] = field(init=False, default_factory=Future)
    next_check: float = field(init=False, default=0.0)
    """Time of its next retry or time-out, on the monotonic clock."""
    _end: float = field(init=False)
    _tries: int = field(init=False, default=0)
    _refusals: list[Any] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.parts = encode(self.header, self.payloads)
        self.answer.set_running_or_notify_cancel()  # what is sent cannot be taken back
        self._end = time.monotonic() + self.seconds

    @property
    def timed_out(self) -> bool:
        """True if its time is up."""
        return time.monotonic() >= self._end

    def mark_sent(self) -> None:
        """Count an attempt, and schedule the next one with exponential backoff."""
        pause = min(_LONGEST_RETRY, _FIRST_RETRY * 2**self._tries) * random.uniform(0.75, 1.25)
        self._tries += 1
        self.schedule(self.seconds if self.is_heartbeat else pause)

    def schedule(self, pause: float) -> None:
        """Schedule its next check in ``pause`` seconds, at the time-out at the latest."""
        self.next_check = min(time.monotonic() + pause, self._end)

    def handle_reply(self, reply: Message) -> bool:
        """Complete it with ``reply``; return False if it is to be retried."""
        if reply.header.get("ok") is True:
            self.answer.set_result(reply)
            return True
        error = parse_error(reply.header.get("error"))
        wait = 0.1 if error.retry_after_ms is None else max(0.001, error.retry_after_ms / 1000)
        if error.code in RETRYABLE and not self.is_heartbeat and time.monotonic() + wait < self._end:
            self._refusals.append(reply.header["error"])
            self.schedule(wait * random.uniform(1.0, 1.5))
            return False
        self.answer.set_exception(error_from_reply(reply.header.get("error")))
        return True

    def fail(self) -> None:
        """Fail with the last error reply if every attempt got one, else as unanswered."""
        if self._refusals and len(self._refusals) == self._tries:
            self.answer.set_exception(error_from_reply(self._refusals[-1]))
        else:
            self.answer.set_exception(UnansweredError(str(self.header["op"]), self.seconds))
