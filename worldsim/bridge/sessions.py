"""The sessions of a server: whose they are, how far they are, and what they answered last."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from worldsim.bridge.protocol import REMEMBERED, Code
from worldsim.bridge.requests import Answer
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.errors import BridgeError

__all__ = ["Held", "Sessions"]


@dataclass(slots=True, eq=False)
class Held:
    """One session."""

    name: str
    lease: str
    session: Session
    origin: tuple[Any, ...]
    """What made it: the same request again is a retry, another one is refused."""
    opening: Answer | None
    """What that request was answered; None once a restart has forgotten it."""
    seq: int = 0
    """The last one taken."""
    replies: dict[int, Answer] = field(default_factory=dict)

    def take(self, seq: int, step: Step) -> Answer:
        """Note what the next ``seq`` was answered."""
        self.seq = seq
        answer = self.replies[seq] = Answer(step, seq)
        self.replies.pop(seq - REMEMBERED, None)
        return answer

    def before(self, seq: int) -> Answer | None:
        """What ``seq`` was answered if it is one of the last ones; None if it is the next.

        Raises:
            BridgeError: ``GAP``, it is neither.
        """
        if seq in self.replies:
            return self.replies[seq]
        if seq != self.seq + 1:
            rule = f"a seq must be the next or one of the last {REMEMBERED}"
            remedy = f"go on with {self.seq + 1}"
            raise BridgeError(f"{rule}, not {seq}", self.seq, remedy, code=Code.GAP)
        return None

    def begun(self, origin: tuple[Any, ...]) -> Answer:
        """What the request that made it was answered, for the same request again.

        Raises:
            BridgeError: another request, or one too old to be remembered.
        """
        if origin != self.origin:
            raise BridgeError("a session's name must be new", self.name, "choose names at random")
        if self.opening is None:
            rule = f"only the last {REMEMBERED} replies are remembered"
            raise BridgeError(rule, self.seq, "go on with the next seq", code=Code.GAP)
        return self.opening


class Sessions:
    """All sessions by name. The engine's thread changes it; any thread may look."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def get(self, name: str) -> Held | None:
        """By name, whoever asks."""
        return self._held.get(name)

    def find(self, name: str, lease: str) -> Held:
        """The session of a lease.

        Raises:
            BridgeError: ``UNKNOWN_SESSION`` or ``NOT_YOURS``.
        """
        held = self._held.get(name)
        if held is None:
            raise BridgeError("a session must be open", name, "open it", code=Code.UNKNOWN_SESSION)
        if held.lease != lease:
            rule, remedy = "a session must belong to the request's lease", "use the lease that opened it"
            raise BridgeError(rule, name, remedy, code=Code.NOT_YOURS)
        return held

    def add(self, held: Held) -> None:
        """One more."""
        with self._lock:
            self._held[held.name] = held

    def remove(self, name: str) -> None:
        """One less."""
        with self._lock:
            del self._held[name]

    def of(self, lease: str) -> list[Held]:
        """All of a lease."""
        with self._lock:
            return [held for held in self._held.values() if held.lease == lease]

    def all(self) -> list[Held]:
        """All, in the order of their making."""
        with self._lock:
            return list(self._held.values())
