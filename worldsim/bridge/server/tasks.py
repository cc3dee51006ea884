"""Tasks: operations on a session, with their journal records."""

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
from worldsim.controls import MAX_ACTION, MAX_PROMPT, Control
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
    "read_plan",
]

_MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class OpenTask:
    """Open a session."""

    session: str
    seed: int
    start: int | None
    context_entry: dict[str, Any] | None
    """Header entry of the given context."""
    payloads: bytes
    """Arrays of the context, concatenated."""
    sizes: tuple[int, ...]
    """Bytes of each array."""
    context: Context | None
    temperature: float = 1.0
    """Factor of the sampled noise, in [0, 10]."""

    def record(self) -> dict[str, Any]:
        """Return the journal record; ``from_record`` reads it."""
        row: dict[str, Any] = {"op": "open", "session": self.session, "seed": self.seed, "start": self.start}
        if self.temperature != 1:
            row["temperature"] = self.temperature
        if self.context is not None:
            row |= {"context": self.context_entry, "sizes": list(self.sizes), "blob": self.payloads}
        return row

    @classmethod
    def from_record(cls, row: dict[str, Any]) -> OpenTask:
        """Read a task from its journal record."""
        context_entry, sizes, blob = row.get("context"), tuple(row.get("sizes", ())), row.get("blob") or b""
        ends = np.cumsum((0, *sizes)).tolist()
        parts = [blob[first:last] for first, last in pairwise(ends)]
        context = None if context_entry is None else read_context(context_entry, parts)
        heat = row.get("temperature", 1.0)
        return cls(row["session"], row["seed"], row["start"], context_entry, blob, sizes, context, heat)

    def origin(self) -> tuple[Any, ...]:
        """Return the fingerprint that a retry has in common."""
        crc = zlib.crc32(self.payloads) if self.context is not None else None
        return "open", self.seed, (self.start, self.temperature), crc


@dataclass(frozen=True, slots=True)
class RestoreTask:
    """Open a session from a snapshot."""

    session: str
    blob: bytes

    def record(self) -> dict[str, Any]:
        """Return the journal record."""
        return {"op": "restore", "session": self.session, "blob": self.blob}

    def origin(self) -> tuple[Any, ...]:
        """Return the fingerprint that a retry has in common."""
        return "restore", None, None, zlib.crc32(self.blob)


@dataclass(frozen=True, slots=True)
class StepTask:
    """Step a session by one frame."""

    session: str
    seq: int
    control: Control
    frames: bool
    """True if the frame must be decoded; otherwise the latent suffices."""
    plan: tuple[Control, ...] = ()
    """Controls of the frames after it, as far as a unit of several frames is imagined under them."""
    budget_s: float | None = None
    """Seconds from its arrival within which it should be answered, with fewer passes if need be."""

    def record(self, passes: int | None = None) -> dict[str, Any]:
        """Return the journal record; ``read_plan`` reads its plan.

        ``passes``: denoising steps that were taken, where they are not the engine's.
        """
        row: dict[str, Any] = {"op": "step", "session": self.session, "seq": self.seq}
        row["control"] = _control_entry(self.control)
        if self.plan:
            row["plan"] = [_control_entry(control) for control in self.plan]
        if passes is not None:
            row["denoising_steps"] = passes
        return row


@dataclass(frozen=True, slots=True, eq=False)
class ObserveTask:
    """Observe a real frame as the next one."""

    session: str
    seq: int
    frame: np.ndarray
    """uint8; the engine checks its size."""
    control: Control
    """Control held while getting to the frame; its pose is the frame's."""

    def record(self) -> dict[str, Any]:
        """Return the journal record; ``from_record`` reads it."""
        place = {"op": "observe", "session": self.session, "seq": self.seq}
        shown = {"shape": list(self.frame.shape), "blob": self.frame.tobytes()}
        return {**place, "control": _control_entry(self.control), **shown}

    @classmethod
    def from_record(cls, row: dict[str, Any]) -> ObserveTask:
        """Read a task from its journal record."""
        frame = np.frombuffer(row["blob"], np.uint8).reshape(row["shape"]).copy()
        return cls(row["session"], row["seq"], frame, read_control(row["control"]))

    def apply(self, session: Session) -> Step:
        """Let an engine session observe the frame."""
        return session.observe(self.frame, self.control.pose, self.control)


@dataclass(frozen=True, slots=True)
class RewindTask:
    """Rewind a session by some frames."""

    session: str
    seq: int
    frames: int

    def record(self) -> dict[str, Any]:
        """Return the journal record."""
        return {"op": "rewind", "session": self.session, "seq": self.seq, "frames": self.frames}


@dataclass(frozen=True, slots=True)
class ForkTask:
    """Fork a session."""

    session: str
    seq: int
    children: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the journal record."""
        return {"op": "fork", "session": self.session, "seq": self.seq, "children": list(self.children)}

    def origin(self) -> tuple[Any, ...]:
        """Return the fingerprint that a retry has in common."""
        return "fork", self.session, self.seq, None


@dataclass(frozen=True, slots=True)
class SnapshotTask:
    """Snapshot a session."""

    session: str


@dataclass(frozen=True, slots=True)
class CloseTask:
    """Close a session."""

    session: str

    def record(self) -> dict[str, Any]:
        """Return the journal record."""
        return {"op": "close", "session": self.session}


@dataclass(frozen=True, slots=True)
class TakeOverTask:
    """Take over all sessions of an engine that has ended."""

    session: str
    """Name of the task itself."""
    folder: Path
    """Folder of that engine's journal."""


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
    """Read a session's fingerprint from its journal record."""
    if row["op"] == "fork":
        return "fork", row["session"], row["seq"], None
    if row["op"] == "open":
        return "open", row["seed"], (row["start"], row.get("temperature", 1.0)), row.get("crc")
    return row["op"], None, None, row.get("crc")


def read_control(entry: Any) -> Control:
    """Read a control from a header.

    Raises:
        BridgeError: it is malformed.
    """
    fields = HeaderFields({} if entry is None else entry, "a control")
    keys = fields.optional("keys", lambda name: fields.strings(name, _MAX_KEYS))
    yaw = fields.optional("yaw", fields.number)
    pose = fields.optional("pose", lambda name: np.reshape(fields.numbers(name, 16), (4, 4)))
    prompt = fields.optional("prompt", fields.string, MAX_PROMPT)
    action = fields.optional("action", lambda name: fields.some_numbers(name, MAX_ACTION))
    fields.check_empty()
    return Control(keys or (), pose, yaw or 0.0, prompt, action)


def read_plan(row: dict[str, Any]) -> list[Control]:
    """Read the plan of a step from its journal record; empty where the control was held."""
    return [read_control(entry) for entry in row.get("plan", ())]


def read_context(entry: Any, payloads: Sequence[Any]) -> Context:
    """Read a context from a header and its payloads, copied.

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
    """Read a uint8 frame from a header and its payload, copied.

    Raises:
        BridgeError: it is malformed.
    """
    return _array(entry, payloads, "u1")


def _control_entry(control: Control) -> dict[str, Any]:
    """Return a control as a header entry."""
    entry: dict[str, Any] = {"keys": sorted(control.keys), "yaw": control.yaw}
    if control.pose is not None:
        entry["pose"] = control.pose.ravel().tolist()
    if control.prompt is not None:
        entry["prompt"] = control.prompt
    if control.action is not None:
        entry["action"] = list(control.action)
    return entry


def _array(entry: Any, payloads: Sequence[Any], kind: str) -> np.ndarray:
    array = read_array(entry, payloads)
    if entry["dtype"] != kind:
        raise BridgeError(f"this array must be {kind}", entry["dtype"])
    return array.copy()
