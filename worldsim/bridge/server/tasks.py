"""What can be asked of a session, and how a journal writes it down."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.bridge.wire.protocol import read_array
from worldsim.context import Context
from worldsim.controls import Control
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.errors import BridgeError, DataError

__all__ = [
    "CloseTask",
    "ForkTask",
    "ObserveTask",
    "OpenTask",
    "RestoreTask",
    "RewindTask",
    "SnapshotTask",
    "StepTask",
    "TakeOverTask",
    "Task",
    "read_context",
    "read_control",
    "read_frame",
]

_MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class OpenTask:
    """Begin a session."""

    session: str
    seed: int
    start: int | None
    context_entry: dict[str, Any] | None
    """The header's entry of a given context."""
    payloads: bytes
    """Its arrays, one after another."""
    sizes: tuple[int, ...]
    """How many bytes each of them has."""
    context: Context | None

    def record(self) -> dict[str, Any]:
        """For the journal; ``from_record`` reads it."""
        row: dict[str, Any] = {"op": "open", "session": self.session, "seed": self.seed, "start": self.start}
        if self.context is not None:
            row |= {"context": self.context_entry, "sizes": list(self.sizes), "blob": self.payloads}
        return row

    @classmethod
    def from_record(cls, row: dict[str, Any]) -> OpenTask:
        """The task that a record tells of."""
        context_entry, sizes, blob = row.get("context"), tuple(row.get("sizes", ())), row.get("blob") or b""
        ends = np.cumsum((0, *sizes)).tolist()
        parts = [blob[first:last] for first, last in pairwise(ends)]
        context = None if context_entry is None else read_context(context_entry, parts)
        return cls(row["session"], row["seed"], row["start"], context_entry, blob, sizes, context)

    def origin(self) -> tuple[Any, ...]:
        """What is the same when it is asked again."""
        return "open", self.seed, self.start, zlib.crc32(self.payloads) if self.context is not None else None


@dataclass(frozen=True, slots=True)
class RestoreTask:
    """Begin a session from a snapshot."""

    session: str
    blob: bytes

    def record(self) -> dict[str, Any]:
        """For the journal."""
        return {"op": "restore", "session": self.session, "blob": self.blob}

    def origin(self) -> tuple[Any, ...]:
        """What is the same when it is asked again."""
        return "restore", None, None, zlib.crc32(self.blob)


@dataclass(frozen=True, slots=True)
class StepTask:
    """One frame."""

    session: str
    seq: int
    control: Control
    frames: bool
    """Whether anybody wants to see it; otherwise the latent will do."""

    def record(self) -> dict[str, Any]:
        """For the journal."""
        control = _control_entry(self.control)
        return {"op": "step", "session": self.session, "seq": self.seq, "control": control}


@dataclass(frozen=True, slots=True, eq=False)
class ObserveTask:
    """A real frame as the next one."""

    session: str
    seq: int
    frame: np.ndarray
    """uint8; whether it is of the world's size, the engine says."""
    control: Control
    """What was held while getting there; its pose is the frame's."""

    def record(self) -> dict[str, Any]:
        """For the journal; ``from_record`` reads it."""
        place = {"op": "observe", "session": self.session, "seq": self.seq}
        shown = {"shape": list(self.frame.shape), "blob": self.frame.tobytes()}
        return {**place, "control": _control_entry(self.control), **shown}

    @classmethod
    def from_record(cls, row: dict[str, Any]) -> ObserveTask:
        """The task that a record tells of."""
        frame = np.frombuffer(row["blob"], np.uint8).reshape(row["shape"]).copy()
        return cls(row["session"], row["seq"], frame, read_control(row["control"]))

    def apply(self, session: Session) -> Step:
        """Have a session of the engine take it."""
        return session.observe(self.frame, self.control.pose, self.control)


@dataclass(frozen=True, slots=True)
class RewindTask:
    """Some frames back."""

    session: str
    seq: int
    frames: int

    def record(self) -> dict[str, Any]:
        """For the journal."""
        return {"op": "rewind", "session": self.session, "seq": self.seq, "frames": self.frames}


@dataclass(frozen=True, slots=True)
class ForkTask:
    """Copies of a session."""

    session: str
    seq: int
    children: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """For the journal."""
        return {"op": "fork", "session": self.session, "seq": self.seq, "children": list(self.children)}

    def origin(self) -> tuple[Any, ...]:
        """What is the same when it is asked again."""
        return "fork", self.session, self.seq, None


@dataclass(frozen=True, slots=True)
class SnapshotTask:
    """A session as bytes."""

    session: str


@dataclass(frozen=True, slots=True)
class CloseTask:
    """The end of a session."""

    session: str

    def record(self) -> dict[str, Any]:
        """For the journal."""
        return {"op": "close", "session": self.session}


@dataclass(frozen=True, slots=True)
class TakeOverTask:
    """All sessions of an engine that ended."""

    session: str
    """A name for the task itself."""
    folder: Path
    """Of that engine's journal."""


Task = (
    OpenTask
    | RestoreTask
    | StepTask
    | ObserveTask
    | RewindTask
    | ForkTask
    | SnapshotTask
    | CloseTask
    | TakeOverTask
)


def origin_from_record(row: dict[str, Any]) -> tuple[Any, ...]:
    """The origin of a session by the journal's record of it."""
    if row["op"] == "fork":
        return "fork", row["session"], row["seq"], None
    return row["op"], row.get("seed"), row.get("start"), row.get("crc")


def read_control(entry: Any) -> Control:
    """A control from a header.

    Raises:
        BridgeError: it is malformed.
    """
    fields = HeaderFields({} if entry is None else entry, "a control")
    keys = fields.optional("keys", lambda name: fields.strings(name, _MAX_KEYS))
    yaw = fields.optional("yaw", fields.number)
    pose = fields.optional("pose", lambda name: np.reshape(fields.numbers(name, 16), (4, 4)))
    fields.check_empty()
    return Control(keys or (), pose, yaw or 0.0)


def read_context(entry: Any, payloads: Sequence[Any]) -> Context:
    """A context from a header and its payloads, in memory of its own.

    Raises:
        BridgeError: it is malformed, or its arrays do not belong together.
    """
    fields = HeaderFields(entry, "a context")
    frames, controls, poses = (fields.pop(name) for name in ("frames", "controls", "poses"))
    fields.check_empty()
    frame_array, control_array = _array(frames, payloads, "u1"), _array(controls, payloads, "f4")
    try:
        return Context(frame_array, control_array, None if poses is None else _array(poses, payloads, "f8"))
    except DataError as error:
        raise BridgeError(error.rule, error.value, error.remedy) from error


def read_frame(entry: Any, payloads: Sequence[Any]) -> np.ndarray:
    """A frame from a header and its payload, in memory of its own: uint8, of whatever shape it says.

    Raises:
        BridgeError: it is malformed.
    """
    return _array(entry, payloads, "u1")


def _control_entry(control: Control) -> dict[str, Any]:
    """A control as ``read_control`` reads it."""
    entry: dict[str, Any] = {"keys": sorted(control.keys), "yaw": control.yaw}
    if control.pose is not None:
        entry["pose"] = control.pose.ravel().tolist()
    return entry


def _array(entry: Any, payloads: Sequence[Any], kind: str) -> np.ndarray:
    array = read_array(entry, payloads)
    if entry["dtype"] != kind:
        raise BridgeError(f"this array must be {kind}", entry["dtype"])
    return array.copy()
