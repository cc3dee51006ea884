"""Requests about sessions: read from messages, answered once all of their tasks are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from worldsim.bridge.server.connections import ClientConnection
from worldsim.bridge.server.tasks import (
    CloseTask,
    ForkTask,
    ObserveTask,
    OpenTask,
    RestoreTask,
    RewindTask,
    SnapshotTask,
    StepTask,
    TakeOverTask,
    Task,
    read_context,
    read_control,
    read_frame,
)
from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.bridge.wire.protocol import CODECS, ClientLimits, Code
from worldsim.bridge.wire.step_header import StepHeader
from worldsim.bridge.wire.zmtp import Reservation
from worldsim.controls import Control
from worldsim.engine.snapshot_rules import MAX_TEMPERATURE
from worldsim.engine.step import Step
from worldsim.errors import BridgeError, WorldsimError

__all__ = [
    "OPERATIONS",
    "Answer",
    "Envelope",
    "Request",
    "RequestReader",
    "internal_error",
    "read_envelope",
    "read_op_and_id",
    "to_bridge_error",
]

_MAX_START = 2**31
_MANY = ("step_many", "step_chunk")
"""Operations that are answered with items."""
_PIXEL_CODECS = ("raw", "jpeg")
"""Codecs that require decoded frames."""


@dataclass(slots=True)
class Envelope:
    """Fields common to all requests."""

    op: str = ""
    id: int = 0
    lease: str = ""
    trace: str | None = None
    timeout_s: float | None = None
    """Seconds after its arrival until its deadline."""
    key: str = ""
    """Authenticated key of the client, as sent by a router."""
    session: str = ""
    """Session it is about, not validated yet; empty for several or none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of a task."""

    step: Step | None = None
    seq: int = 0
    blob: bytes | None = None
    jpeg: list[bytes] = field(default_factory=list, compare=False)
    """JPEG of its frame, filled in when first needed."""


@dataclass(slots=True, eq=False)
class Request:
    """One request with the answers to its tasks."""

    envelope: Envelope
    connection: ClientConnection
    """Connection that the reply goes to."""
    codec: str
    tasks: list[Task | BridgeError]
    """Tasks; an error stands for a task that was refused on arrival."""
    arrived: float
    many: bool = False
    """True if the reply has items, one per task."""
    answers: list[Answer | BridgeError | None] = field(default_factory=list)
    unanswered: int = 0
    reserved_sessions: int = 0
    """New sessions counted against the quotas."""
    reservation: Reservation | None = None
    """Memory reserved for its bytes."""

    def __post_init__(self) -> None:
        self.answers = [task if isinstance(task, BridgeError) else None for task in self.tasks]
        self.unanswered = self.answers.count(None)

    @property
    def deadline(self) -> float | None:
        """Deadline on the monotonic clock, in seconds."""
        timeout_s = self.envelope.timeout_s
        return None if timeout_s is None else self.arrived + timeout_s

    def answer(self, position: int, answer: Answer | BridgeError) -> bool:
        """Store one answer; return True if it was the last one missing."""
        if isinstance(answer, BridgeError):  # or the frames that it went through would hold what was asked
            answer.__traceback__ = answer.__context__ = answer.__cause__ = None
        self.answers[position] = answer
        self.unanswered -= 1
        return self.unanswered == 0


def to_bridge_error(error: WorldsimError) -> BridgeError:
    """Convert an error of the world or the engine to one of the wire."""
    if isinstance(error, BridgeError):
        return error
    return BridgeError(error.rule, error.value, error.remedy, code=Code.ENGINE)


def internal_error(error: Exception) -> BridgeError:
    """Convert an unexpected exception to an ``INTERNAL`` error."""
    value = f"{type(error).__name__}: {error}"[:200]
    remedy = "open the session again if it is gone, and report this"
    return BridgeError("the server must not fail", value, remedy, code=Code.INTERNAL)


def read_op_and_id(fields: HeaderFields) -> Envelope:
    """Read op and id, which every reply repeats.

    Raises:
        BridgeError: even that is malformed.
    """
    return Envelope(fields.string("op", 32), fields.integer("id"))


def read_envelope(fields: HeaderFields, envelope: Envelope, *, behind_router: bool = False) -> None:
    """Read the remaining common fields; ``fields`` keeps those of the operation.

    Args:
        fields: what ``read_op_and_id`` left.
        envelope: what it read; is filled in.
        behind_router: whether a router sent it, which says whose request it is.

    Raises:
        BridgeError: a part of it is malformed.
    """
    envelope.trace = fields.optional("trace", fields.string, 64)
    timeout_s = fields.optional("deadline_ms", fields.number, 0, 1e9)
    envelope.timeout_s = None if timeout_s is None else timeout_s / 1000
    envelope.lease = fields.optional("lease", fields.token) or ""
    envelope.key = fields.string("key", 64) if behind_router else ""
    envelope.session = fields.peek("session")


class RequestReader:
    """Reads requests about sessions.

    Args:
        check: raises a ``WorldsimError`` for a control that the world does not take.
        limits: what one request may ask for.
        context: shape of the longest context, [T, H, W, 3].
        unit_frames: frames of the world's unit.
        behind_router: whether a router asks, which may move sessions from engine to engine.
    """

    def __init__(
        self,
        check: Callable[[Control], None],
        limits: ClientLimits,
        context: Sequence[int],
        *,
        unit_frames: int = 1,
        behind_router: bool = False,
    ) -> None:
        self._check, self._limits, self._context = check, limits, tuple(context)
        self._unit_frames = unit_frames
        self._parsers = _PARSERS | ({"take_over": RequestReader._take_over} if behind_router else {})

    def read(
        self,
        envelope: Envelope,
        fields: HeaderFields,
        payloads: Sequence[Any],
        connection: ClientConnection,
        now: float,
    ) -> Request:
        """Read the request of an envelope and the rest of its header.

        Raises:
            BridgeError: no such request, or a malformed one.
        """
        method = self._parsers.get(envelope.op)
        if method is None:
            known = ", ".join(self._parsers)
            raise BridgeError("a request's op must be known", envelope.op, f"the data socket takes {known}")
        if not envelope.lease:
            raise BridgeError("a request must have its client's lease", None, "say hello first")
        codec = self._codec(fields)
        tasks = method(self, fields, payloads, codec in _PIXEL_CODECS)
        fields.check_empty()
        return Request(envelope, connection, codec, tasks, now, many=envelope.op in _MANY)

    def read_step(
        self, header: StepHeader, envelope: Envelope, connection: ClientConnection, now: float
    ) -> Request:
        """Read the request of a header that was decoded in one go."""
        codec = header.codec or "raw"
        control = self._checked_control(lambda: header.control)
        budget_s = None if header.budget_ms is None else header.budget_ms / 1000
        task = _make_step_task(header.session, header.seq, control, codec in _PIXEL_CODECS, budget_s)
        return Request(envelope, connection, codec, [task], now)

    def _codec(self, fields: HeaderFields) -> str:
        codec = fields.optional("codec", fields.string, 16) or "raw"
        if codec not in CODECS:
            raise BridgeError(f"a codec must be one of {', '.join(CODECS)}", codec)
        return codec

    def _open(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        session, seed = fields.token("session"), fields.integer("seed")
        start = fields.optional("start", fields.integer, -_MAX_START, _MAX_START)
        temperature = fields.optional("temperature", fields.number, 0.0, MAX_TEMPERATURE)
        given = fields.pop("context")
        if given is not None and start is not None:
            raise BridgeError("an open takes a start or a context", "both", "leave one out")
        _check_payloads(payloads, 0 if given is None else 3)
        context = None
        if given is not None:
            self._check_context(given)
            context = read_context(given, payloads)
        sizes = tuple(len(payload) for payload in payloads)
        heat = 1.0 if temperature is None else float(temperature)
        return [OpenTask(session, seed, start, given, b"".join(payloads), sizes, context, heat)]

    def _check_context(self, given: Any) -> None:
        """Refuse a context of a wrong shape before its frames are copied."""
        frames = given.get("frames") if isinstance(given, dict) else None
        shape = frames.get("shape") if isinstance(frames, dict) else None
        most, *size = self._context
        if not isinstance(shape, list) or len(shape) != 4 or not isinstance(shape[0], int):
            return  # it is told what is malformed when it is read
        if shape[0] > most or shape[1:] != size:
            rule = f"a context must have at most {most} frames of {size}"
            raise BridgeError(rule, shape, "leave out the oldest", code=Code.ENGINE)

    def _step(self, fields: HeaderFields, payloads: Sequence[Any], frames: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [self._step_task(fields, frames, _budget(fields))]

    def _step_many(
        self, fields: HeaderFields, payloads: Sequence[Any], frames: bool
    ) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        items, budget_s = fields.items("items", 4096), _budget(fields)
        if not 1 <= len(items) <= self._limits.items:
            rule = f"a step_many may have 1 to {self._limits.items} items"
            raise BridgeError(rule, len(items), "send several", code=Code.RESOURCE_EXHAUSTED)
        tasks: list[Task | BridgeError] = []
        named: set[tuple[str, int]] = set()
        for item in items:
            inner = HeaderFields(item, "an item")
            tasks.append(task := self._step_task(inner, frames, budget_s))
            inner.check_empty()
            if isinstance(task, StepTask):
                if (task.session, task.seq) in named:
                    raise BridgeError("a step_many may ask for a step once", task.seq, "leave out the second")
                named.add((task.session, task.seq))
        return tasks

    def _step_chunk(
        self, fields: HeaderFields, payloads: Sequence[Any], frames: bool
    ) -> list[Task | BridgeError]:
        """Read steps of one session, each with the controls that follow it within a unit."""
        _check_payloads(payloads, 0)
        session, seq = fields.token("session"), fields.integer("seq", 1)
        given = fields.items("controls", 4096)
        if not 1 <= len(given) <= self._limits.chunk:
            rule = f"a step_chunk may have 1 to {self._limits.chunk} controls"
            raise BridgeError(rule, len(given), "send several", code=Code.RESOURCE_EXHAUSTED)
        controls: list[Control] = []
        for entry in given:
            control = self._checked_control(partial(read_control, entry))
            if isinstance(control, BridgeError):
                raise control
            controls.append(control)
        length = self._unit_frames
        return [
            StepTask(session, seq + t, control, frames, tuple(controls[t + 1 : t + length]))
            for t, control in enumerate(controls)
        ]

    def _step_task(self, fields: HeaderFields, frames: bool, budget_s: float | None) -> Task | BridgeError:
        session, seq = fields.token("session"), fields.integer("seq", 1)
        return _make_step_task(session, seq, self._control(fields), frames, budget_s)

    def _observe(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 1)
        session, seq = fields.token("session"), fields.integer("seq", 1)
        frame, control = read_frame(fields.pop("frame"), payloads), self._control(fields)
        return [control if isinstance(control, BridgeError) else ObserveTask(session, seq, frame, control)]

    def _control(self, fields: HeaderFields) -> Control | BridgeError:
        entry = fields.pop("control")
        return self._checked_control(lambda: read_control(entry))

    def _checked_control(self, read: Callable[[], Control]) -> Control | BridgeError:
        """Return a validated control, or the error of the world."""
        try:
            control = read()
            self._check(control)
        except BridgeError:
            raise
        except WorldsimError as error:
            return to_bridge_error(error)
        return control

    def _fork(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        children = fields.tokens("children", self._limits.sessions)
        return [ForkTask(fields.token("session"), fields.integer("seq"), tuple(children))]

    def _rewind(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [
            RewindTask(fields.token("session"), fields.integer("seq", 1), fields.integer("frames", 1, 2**31))
        ]

    def _snapshot(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [SnapshotTask(fields.token("session"))]

    def _restore(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        if len(payloads) != 1:
            raise BridgeError("a restore must have the snapshot as its one payload", len(payloads))
        return [RestoreTask(fields.token("session"), bytes(payloads[0]))]

    def _close(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [CloseTask(fields.token("session"))]

    def _take_over(self, fields: HeaderFields, payloads: Sequence[Any], _: bool) -> list[Task | BridgeError]:
        _check_payloads(payloads, 0)
        return [TakeOverTask(fields.token("session"), Path(fields.string("folder", 4096)))]


_PARSERS: dict[
    str, Callable[[RequestReader, HeaderFields, Sequence[Any], bool], list[Task | BridgeError]]
] = {
    "open": RequestReader._open,
    "step": RequestReader._step,
    "step_many": RequestReader._step_many,
    "step_chunk": RequestReader._step_chunk,
    "fork": RequestReader._fork,
    "rewind": RequestReader._rewind,
    "observe": RequestReader._observe,
    "snapshot": RequestReader._snapshot,
    "restore": RequestReader._restore,
    "close": RequestReader._close,
}
OPERATIONS = tuple(_PARSERS)
"""Operations on the data socket."""


def _make_step_task(
    session: str, seq: int, control: Control | BridgeError, frames: bool, budget_s: float | None
) -> Task | BridgeError:
    if isinstance(control, BridgeError):
        return control
    return StepTask(session, seq, control, frames, budget_s=budget_s)


def _budget(fields: HeaderFields) -> float | None:
    """Seconds within which a step should be answered."""
    budget_ms = fields.optional("budget_ms", fields.number, 0, 1e9)
    return None if budget_ms is None else budget_ms / 1000


def _check_payloads(payloads: Sequence[Any], most: int) -> None:
    if len(payloads) > most:
        raise BridgeError(f"this request may have {most} payloads", len(payloads))
