"""Requests about sessions: read from messages, answered once all of their tasks are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldsim.bridge.fields import Fields
from worldsim.bridge.peers import Peer
from worldsim.bridge.protocol import CODECS, Code, Limits
from worldsim.bridge.step_header import StepHeader
from worldsim.bridge.tasks import (
    Adopt,
    Advance,
    Anchor,
    Close,
    Fork,
    Open,
    Restore,
    Rewind,
    Snap,
    Task,
    read_context,
    read_control,
    read_frame,
)
from worldsim.bridge.zmtp import Charge
from worldsim.controls import Control
from worldsim.engine.step import Step
from worldsim.errors import BridgeError, WorldsimError

__all__ = [
    "OPERATIONS",
    "Answer",
    "Envelope",
    "Reader",
    "Request",
    "fault",
    "read_name",
    "read_rest",
    "refusal",
]

_START = 2**31
_PICTURES = ("raw", "jpeg")
"""The codecs that need a frame to be decoded."""


@dataclass(slots=True)
class Envelope:
    """What every request has."""

    op: str = ""
    id: int = 0
    lease: str = ""
    trace: str | None = None
    patience: float | None = None
    """Seconds after its arrival in which an answer is worth something."""
    key: str = ""
    """The authenticated key of a client, as a front tells it."""
    session: str = ""
    """The one that it is about, not checked yet; empty where there are several or none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A task that was done."""

    step: Step | None = None
    seq: int = 0
    blob: bytes | None = None
    jpeg: list[bytes] = field(default_factory=list, compare=False)
    """Its frame as an image once it has been asked for: it is encoded no more than once."""


@dataclass(slots=True, eq=False)
class Request:
    """One request, and its answers as they come in."""

    envelope: Envelope
    peer: Peer
    """Who asked."""
    codec: str
    tasks: list[Task | BridgeError]
    """A task that cannot be done is its own answer."""
    arrived: float
    many: bool = False
    answers: list[Answer | BridgeError | None] = field(default_factory=list)
    missing: int = 0
    making: int = 0
    """Sessions that it may make."""
    charge: Charge | None = None
    """For its bytes."""

    def __post_init__(self) -> None:
        self.answers = [task if isinstance(task, BridgeError) else None for task in self.tasks]
        self.missing = self.answers.count(None)

    @property
    def deadline(self) -> float | None:
        """On the monotonic clock, in seconds."""
        patience = self.envelope.patience
        return None if patience is None else self.arrived + patience

    def answer(self, position: int, answer: Answer | BridgeError) -> bool:
        """Note one answer; True when it was the last one missing."""
        if isinstance(answer, BridgeError):  # or the frames that it went through would hold what was asked
            answer.__traceback__ = answer.__context__ = answer.__cause__ = None
        self.answers[position] = answer
        self.missing -= 1
        return self.missing == 0


def refusal(error: WorldsimError) -> BridgeError:
    """An error of the world or the engine as the wire tells it."""
    if isinstance(error, BridgeError):
        return error
    return BridgeError(error.rule, error.value, error.remedy, code=Code.ENGINE)


def fault(error: Exception) -> BridgeError:
    """A fault of the server's own as the wire tells it."""
    value = f"{type(error).__name__}: {error}"[:200]
    remedy = "open the session again if it is gone, and report this"
    return BridgeError("the server must not fail", value, remedy, code=Code.INTERNAL)


def read_name(fields: Fields) -> Envelope:
    """Of a request no more than its reply has to repeat.

    Raises:
        BridgeError: even that is malformed.
    """
    return Envelope(fields.text("op", 32), fields.number("id"))


def read_rest(fields: Fields, envelope: Envelope, *, front: bool = False) -> None:
    """The rest of what every request has; ``fields`` then holds what only some have.

    Args:
        fields: what ``read_name`` left.
        envelope: what it read; is filled in.
        front: whether a front sent it, which says whose request it is.

    Raises:
        BridgeError: a part of it is malformed.
    """
    envelope.trace = fields.maybe("trace", fields.text, 64)
    patience = fields.maybe("deadline_ms", fields.real, 0, 1e9)
    envelope.patience = None if patience is None else patience / 1000
    envelope.lease = fields.maybe("lease", fields.token) or ""
    envelope.key = fields.text("key", 64) if front else ""
    envelope.session = fields.peek("session")


class Reader:
    """Reads requests about sessions.

    Args:
        check: raises a ``WorldsimError`` for a control that the world does not take.
        limits: what one request may ask for.
        context: shape of the longest context, [T, H, W, 3].
        front: whether a front asks, which may move sessions from engine to engine.
    """

    def __init__(
        self,
        check: Callable[[Control], None],
        limits: Limits,
        context: Sequence[int],
        *,
        front: bool = False,
    ) -> None:
        self._check, self._limits, self._context = check, limits, tuple(context)
        self._readers = _READERS | ({"adopt": Reader._adopt} if front else {})

    def read(
        self, envelope: Envelope, fields: Fields, payloads: Sequence[Any], peer: Peer, now: float
    ) -> Request:
        """The request of an envelope and the rest of its header.

        Raises:
            BridgeError: no such request, or a malformed one.
        """
        method = self._readers.get(envelope.op)
        if method is None:
            known = ", ".join(self._readers)
            raise BridgeError("a request's op must be known", envelope.op, f"the data socket takes {known}")
        if not envelope.lease:
            raise BridgeError("a request must have its client's lease", None, "say hello first")
        codec = self._codec(fields)
        tasks = method(self, fields, payloads, codec in _PICTURES)
        fields.end()
        return Request(envelope, peer, codec, tasks, now, many=envelope.op == "step_many")

    def read_step(self, header: StepHeader, envelope: Envelope, peer: Peer, now: float) -> Request:
        """The same of a header that was read in one go."""
        codec = header.codec or "raw"
        control = self._allowed(lambda: header.control)
        task = _advance_by(header.session, header.seq, control, codec in _PICTURES)
        return Request(envelope, peer, codec, [task], now)

    def _codec(self, fields: Fields) -> str:
        codec = fields.maybe("codec", fields.text, 16) or "raw"
        if codec not in CODECS:
            raise BridgeError(f"a codec must be one of {', '.join(CODECS)}", codec)
        return codec

    def _open(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        session, seed = fields.token("session"), fields.number("seed")
        start = fields.maybe("start", fields.number, -_START, _START)
        given = fields.any("context")
        if given is not None and start is not None:
            raise BridgeError("an open takes a start or a context", "both", "leave one out")
        _check_payloads(payloads, 0 if given is None else 3)
        context = None
        if given is not None:
            self._check_context(given)
            context = read_context(given, payloads)
        sizes = tuple(len(payload) for payload in payloads)
        return [Open(session, seed, start, given, b"".join(payloads), sizes, context)]

    def _check_context(self, given: Any) -> None:
        """Refuse frames that the world does not take before they are copied."""
        frames = given.get("frames") if isinstance(given, dict) else None
        shape = frames.get("shape") if isinstance(frames, dict) else None
        most, *size = self._context
        if not isinstance(shape, list) or len(shape) != 4 or not isinstance(shape[0], int):
            return  # it is told what is malformed when it is read
        if shape[0] > most or shape[1:] != size:
            rule = f"a context must have at most {most} frames of {size}"
            raise BridgeError(rule, shape, "leave out the oldest", code=Code.ENGINE)

    def _step(self, fields: Fields, payloads: Sequence[Any], frames: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [self._advance(fields, frames)]

    def _step_many(self, fields: Fields, payloads: Sequence[Any], frames: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        items = fields.entries("items", 4096)
        if not 1 <= len(items) <= self._limits.items:
            rule = f"a step_many may have 1 to {self._limits.items} items"
            raise BridgeError(rule, len(items), "send several", code=Code.LIMIT)
        tasks: list[Task | BridgeError] = []
        named: set[tuple[str, int]] = set()
        for item in items:
            inner = Fields(item, "an item")
            tasks.append(task := self._advance(inner, frames))
            inner.end()
            if isinstance(task, Advance):
                if (task.session, task.seq) in named:
                    raise BridgeError("a step_many may ask for a step once", task.seq, "leave out the second")
                named.add((task.session, task.seq))
        return tasks

    def _advance(self, fields: Fields, frames: bool) -> Task | BridgeError:
        session, seq = fields.token("session"), fields.number("seq", 1)
        return _advance_by(session, seq, self._control(fields), frames)

    def _anchor(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 1)
        session, seq = fields.token("session"), fields.number("seq", 1)
        frame, control = read_frame(fields.any("frame"), payloads), self._control(fields)
        return [control if isinstance(control, BridgeError) else Anchor(session, seq, frame, control)]

    def _control(self, fields: Fields) -> Control | BridgeError:
        entry = fields.any("control")
        return self._allowed(lambda: read_control(entry))

    def _allowed(self, read: Callable[[], Control]) -> Control | BridgeError:
        """The control of a request, or why the world does not take it."""
        try:
            control = read()
            self._check(control)
        except BridgeError:
            raise
        except WorldsimError as error:
            return refusal(error)
        return control

    def _fork(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        children = fields.tokens("children", self._limits.sessions)
        return [Fork(fields.token("session"), fields.number("seq"), tuple(children))]

    def _rewind(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [Rewind(fields.token("session"), fields.number("seq", 1), fields.number("frames", 1, 2**31))]

    def _snapshot(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [Snap(fields.token("session"))]

    def _restore(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        if len(payloads) != 1:
            raise BridgeError("a restore must have the snapshot as its one payload", len(payloads))
        return [Restore(fields.token("session"), bytes(payloads[0]))]

    def _close(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [Close(fields.token("session"))]

    def _adopt(self, fields: Fields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [Adopt(fields.token("session"), Path(fields.text("folder", 4096)))]


_READERS: dict[str, Callable[[Reader, Fields, Sequence[Any], bool], list[Task | BridgeError]]] = {
    "open": Reader._open,
    "step": Reader._step,
    "step_many": Reader._step_many,
    "fork": Reader._fork,
    "rewind": Reader._rewind,
    "anchor": Reader._anchor,
    "snapshot": Reader._snapshot,
    "restore": Reader._restore,
    "close": Reader._close,
}
OPERATIONS = tuple(_READERS)
"""What a client can ask on the data socket."""


def _advance_by(session: str, seq: int, control: Control | BridgeError, frames: bool) -> Task | BridgeError:
    return control if isinstance(control, BridgeError) else Advance(session, seq, control, frames)


def _check_payloads(payloads: Sequence[Any], most: int) -> None:
    if len(payloads) > most:
        raise BridgeError(f"this request may have {most} payloads", len(payloads))
