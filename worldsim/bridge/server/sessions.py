"""Sessions of a server: owner, last ``seq``, and remembered replies."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from worldsim.bridge.server.requests import Answer
from worldsim.bridge.wire.protocol import REMEMBERED, Code
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.errors import BridgeError

__all__ = ["HostedSession", "Sessions"]


@dataclass(slots=True, eq=False)
class HostedSession:
    """One session of the engine with its owner and its last replies."""

    name: str
    lease: str
    session: Session
    origin: tuple[Any, ...]
    """Fingerprint of the request that created it; a repeated one is a retry, another one is refused."""
    opening: Answer | None
    """Reply to that request; None once a restart has forgotten it."""
    seq: int = 0
    """Last ``seq`` taken."""
    next_snapshot: int = 0
    """The ``seq`` before which no snapshot is taken: one that could not be restored was not kept."""
    replies: dict[int, Answer] = field(default_factory=dict)

    def record_step(self, seq: int, step: Step) -> Answer:
        """Remember the reply to the next ``seq``."""
        self.seq = seq
        answer = self.replies[seq] = Answer(step, seq)
        self.replies.pop(seq - REMEMBERED, None)
        return answer

    def remembered_reply(self, seq: int) -> Answer | None:
        """Return the remembered reply to ``seq``, or None if it is the next one.

        Raises:
            BridgeError: ``OUT_OF_ORDER``, it is neither.
        """
        if seq in self.replies:
            return self.replies[seq]
        if seq != self.seq + 1:
            rule = f"a seq must be the next or one of the last {REMEMBERED}"
            remedy = f"go on with {self.seq + 1}"
            raise BridgeError(f"{rule}, not {seq}", self.seq, remedy, code=Code.OUT_OF_ORDER)
        return None

    def opening_reply(self, origin: tuple[Any, ...]) -> Answer:
        """Return the reply to the request that created it, for a retry.

        Raises:
            BridgeError: another request, or one too old to be remembered.
        """
        if origin != self.origin:
            raise BridgeError("a session's name must be new", self.name, "choose names at random")
        if self.opening is None:
            rule = f"only the last {REMEMBERED} replies are remembered"
            raise BridgeError(rule, self.seq, "go on with the next seq", code=Code.OUT_OF_ORDER)
        return self.opening


class Sessions:
    """All sessions by name. Written by the engine's thread, read by any."""

    def __init__(self) -> None:
        self._hosted: dict[str, HostedSession] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._hosted)

    def __contains__(self, name: str) -> bool:
        return name in self._hosted

    def get(self, name: str) -> HostedSession | None:
        """Return a session by name, whoever owns it."""
        return self._hosted.get(name)

    def find(self, name: str, lease: str) -> HostedSession:
        """Return a session of a lease.

        Raises:
            BridgeError: ``UNKNOWN_SESSION`` or ``PERMISSION_DENIED``.
        """
        hosted = self._hosted.get(name)
        if hosted is None:
            raise BridgeError("a session must be open", name, "open it", code=Code.UNKNOWN_SESSION)
        if hosted.lease != lease:
            rule, remedy = "a session must belong to the request's lease", "use the lease that opened it"
            raise BridgeError(rule, name, remedy, code=Code.PERMISSION_DENIED)
        return hosted

    def add(self, hosted: HostedSession) -> None:
        """Add a session."""
        with self._lock:
            self._hosted[hosted.name] = hosted

    def remove(self, name: str) -> None:
        """Remove a session."""
        with self._lock:
            del self._hosted[name]

    def of_lease(self, lease: str) -> list[HostedSession]:
        """Return all sessions of a lease."""
        with self._lock:
            return [hosted for hosted in self._hosted.values() if hosted.lease == lease]

    def all(self) -> list[HostedSession]:
        """Return all sessions, oldest first."""
        with self._lock:
            return list(self._hosted.values())
