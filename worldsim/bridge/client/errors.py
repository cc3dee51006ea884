"""Exceptions for error replies and missing replies."""

from __future__ import annotations

from typing import Any

from worldsim.bridge.wire.protocol import Code, parse_error
from worldsim.errors import BridgeError, EngineError, WorldsimError

__all__ = [
    "RETRYABLE",
    "DeadlineExceededError",
    "OutOfOrderError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnansweredError",
    "UnavailableError",
    "UnknownSessionError",
    "error_from_reply",
]

RETRYABLE = frozenset({Code.UNAVAILABLE, Code.DRAINING})
"""Codes after which a request is retried automatically, until its time-out."""


class UnavailableError(BridgeError):
    """The server was full until the time-out; nothing was done."""


class DeadlineExceededError(BridgeError):
    """The deadline passed before the engine reached the request; nothing was done."""


class ResourceExhaustedError(BridgeError):
    """A limit was exceeded; nothing was done."""


class UnknownSessionError(BridgeError):
    """No such session or lease: it was closed, or its lease ran out."""


class PermissionDeniedError(BridgeError):
    """The session or the lease belongs to somebody else, or the server does not know this client's key."""


class OutOfOrderError(BridgeError):
    """Wrong ``seq``: client and server disagree on how many steps were taken."""


class UnansweredError(BridgeError):
    """No reply in time; ``Client.resume`` tells whether the request was executed."""

    def __init__(self, what: str, seconds: float, remedy: str = "see whether the server runs") -> None:
        rule = f"a request must be answered within {seconds:g} s"
        super().__init__(rule, what, remedy, code="UNANSWERED")


_KINDS: dict[str, type[BridgeError]] = {
    Code.UNAVAILABLE: UnavailableError,
    Code.DRAINING: UnavailableError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
    Code.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    Code.UNKNOWN_SESSION: UnknownSessionError,
    Code.PERMISSION_DENIED: PermissionDeniedError,
    Code.OUT_OF_ORDER: OutOfOrderError,
}


def error_from_reply(body: Any) -> WorldsimError:
    """Return the exception for a reply's ``error`` entry; an EngineError for a refusal of the world."""
    error = parse_error(body)
    if error.code == Code.ENGINE:
        return EngineError(error.rule, error.value, error.remedy)
    kind = _KINDS.get(error.code, BridgeError)
    return kind(error.rule, error.value, error.remedy, code=error.code, retry_after_ms=error.retry_after_ms)
