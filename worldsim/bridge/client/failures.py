"""What a server refuses, and what it does not answer, as errors of their own."""

from __future__ import annotations

from typing import Any

from worldsim.bridge.protocol import Code, error_of
from worldsim.errors import BridgeError, EngineError, WorldsimError

__all__ = [
    "AGAIN",
    "BusyError",
    "GapError",
    "LateError",
    "LimitError",
    "NotYoursError",
    "UnansweredError",
    "UnknownSessionError",
    "failure_of",
]

AGAIN = frozenset({Code.BUSY, Code.DRAINING})
"""Refusals after which the same request is sent again by itself, until the client's time is up."""


class BusyError(BridgeError):
    """The server had no room until the time was up; nothing was done."""


class LateError(BridgeError):
    """The deadline passed before the engine got to it; nothing was done."""


class LimitError(BridgeError):
    """More than one client may ask for; nothing was done."""


class UnknownSessionError(BridgeError):
    """No such session or lease: it was closed, or its lease ran out."""


class NotYoursError(BridgeError):
    """The session or the lease belongs to somebody else, or the server does not know this client's key."""


class GapError(BridgeError):
    """A request out of order: the client and the server disagree on how many steps were taken."""


class UnansweredError(BridgeError):
    """No reply came in time: whether the request was carried out is not known; ``Client.resume`` tells."""

    def __init__(self, what: str, seconds: float) -> None:
        rule, remedy = f"a request must be answered within {seconds:g} s", "see whether the server runs"
        super().__init__(rule, what, remedy, code="UNANSWERED")


_KINDS: dict[str, type[BridgeError]] = {
    Code.BUSY: BusyError,
    Code.DRAINING: BusyError,
    Code.LATE: LateError,
    Code.LIMIT: LimitError,
    Code.UNKNOWN_SESSION: UnknownSessionError,
    Code.NOT_YOURS: NotYoursError,
    Code.GAP: GapError,
}


def failure_of(body: Any) -> WorldsimError:
    """The error that a reply's ``error`` entry stands for; what the world refused is an EngineError."""
    error = error_of(body)
    if error.code == Code.ENGINE:
        return EngineError(error.rule, error.value, error.remedy)
    kind = _KINDS.get(error.code, BridgeError)
    return kind(error.rule, error.value, error.remedy, code=error.code, retry_after_ms=error.retry_after_ms)
