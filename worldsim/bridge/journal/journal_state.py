"""Journal state: per session its recovery points and the events after them.

A replay ends in the state before the crash, with as many frames to rewind. Snapshots do not hold rewindable
frames, so a session is replayed from the newest snapshot that is old enough: followed by at least as many
frames as can be rewound and as many replies as are remembered. Older recovery points are dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from worldsim.bridge.journal.blob_store import BLOB
from worldsim.bridge.journal.wal import Record

__all__ = ["JournalState", "JournaledSession", "RecoveryPoint", "ReplayPlan"]

_POWER_LOSS_REMEDY = "A loss of power took them: serve with --fsync, which waits for the disk"


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """Recovery point: the state that a replay of a session begins at."""

    seq: int
    depth: int
    """Frames that could be rewound at this point."""
    record: Record
    """``open``, ``restore`` or ``snapshot``."""

    @property
    def blob(self) -> str | None:
        """Name of the file with its bytes."""
        return self.record.get(BLOB)


@dataclass(slots=True)
class JournaledSession:
    """One session as the records describe it."""

    lease: str
    origin: Record
    """Request that created it: ``open``, ``restore`` or ``fork``."""
    recovery_points: list[RecoveryPoint]
    """Oldest first; all but the oldest are snapshots."""
    events: list[tuple[int, Record]] = field(default_factory=list)
    """(seq, ``step``, ``observe`` or ``rewind``) since the oldest moment."""
    seq: int = 0
    """Last ``seq`` taken."""
    depth: int = 0
    """Frames that can be rewound."""

    def append_event(self, record: Record, rewind_frames: int) -> None:
        """Append a step, an observed frame or a rewind."""
        self.seq = record["seq"]
        self.depth = _depth_after(self.depth, record, rewind_frames)
        self.events.append((self.seq, record))

    def fork(self, record: Record) -> JournaledSession:
        """Return a copy whose seq begins at 0; its parent's events have seq <= 0."""
        recovery_points = [
            RecoveryPoint(at.seq - self.seq, at.depth, at.record) for at in self.recovery_points
        ]
        events = [(seq - self.seq, event) for seq, event in self.events]
        return JournaledSession(record["lease"], record, recovery_points, events, 0, self.depth)

    def insert(self, point: RecoveryPoint, rewind_frames: int, replies: int) -> None:
        """Add a snapshot, and drop all before the newest point from which a replay is complete."""
        self.recovery_points.append(point)
        while len(self.recovery_points) > 1 and self._replays_everything(
            self.recovery_points[1], rewind_frames, replies
        ):
            del self.recovery_points[0]
        first = self.recovery_points[0].seq
        self.events = [(seq, event) for seq, event in self.events if seq > first]

    def _replays_everything(self, point: RecoveryPoint, rewind_frames: int, replies: int) -> bool:
        depth = 0
        for seq, event in self.events:
            if seq > point.seq:
                depth = _depth_after(depth, event, rewind_frames)
                if depth < 0:
                    return False
        return depth == self.depth and self.seq - point.seq >= replies

    def without_events(self, lost: set[int], rewind_frames: int) -> JournaledSession | None:
        """Return the part that can be replayed without the events of some seqs, or None.

        A snapshot taken after them stands for them; without one the session ends before the first that is
        missing.

        Args:
            lost: seqs, as ``events`` counts them.
            rewind_frames: frames that a session can rewind at most.
        """
        newest = self.recovery_points[-1].seq
        end = min((seq - 1 for seq in lost if seq > newest), default=self.seq)
        begin = max((seq for seq in lost if seq <= end), default=self.recovery_points[0].seq)
        recovery_points = [point for point in self.recovery_points if begin <= point.seq]
        left = JournaledSession(self.lease, self.origin, recovery_points[:1], [], recovery_points[0].seq)
        for seq, event in self.events:
            if left.seq < seq <= end:
                depth = _depth_after(left.depth, event, rewind_frames)
                if depth < 0:  # back to before it can be begun from
                    break
                left.seq, left.depth = seq, depth
                left.events.append((seq, event))
        left.recovery_points = [point for point in recovery_points if point.seq <= left.seq]
        return left if left.seq >= 0 else None  # what its parent was when it was forked is gone

    def replay_plan(self, name: str, base: Record) -> ReplayPlan:
        """Return the plan to recover it; ``base`` is the oldest recovery point's record with its bytes."""
        return ReplayPlan(name, self.lease, self.origin, base, list(self.events), self.seq)

    def blobs(self) -> Iterator[str]:
        """Names of files that this session needs."""
        yield from (point.blob for point in self.recovery_points if point.blob)
        yield from (event[BLOB] for _, event in self.events if BLOB in event)


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Replay plan of a session: begin at ``base``, then apply ``events`` in order."""

    session: str
    lease: str
    origin: Record
    """The ``open``, ``restore`` or ``fork`` that made it, with the name of its blob's file at most."""
    base: Record
    """``open``: begin as asked then, ``blob`` being the context's bytes if one was given; ``restore`` or
    ``snapshot``: ``blob`` is the engine's snapshot."""
    events: list[tuple[int, Record]]
    """(seq, ``step``, ``observe`` or ``rewind``); events with seq <= 0 are the parent's before a fork. The
    ``blob`` of an observed frame is still its file's name, see ``Journal.load``."""
    seq: int
    """Last ``seq`` taken."""


class JournalState:
    """Leases and sessions after all records so far.

    Args:
        rewind_frames: frames that a session of this engine can rewind at most.
        replies: how many of a session's last replies must be made again by a replay.
    """

    def __init__(self, rewind_frames: int, replies: int) -> None:
        self.rewind_frames, self.replies = rewind_frames, replies
        self.leases: dict[str, Record] = {}
        self.sessions: dict[str, JournaledSession] = {}

    def apply(self, record: Record) -> None:
        """Apply a record.

        Raises:
            KeyError: it is of no known kind, lacks something, or tells of a session that is not there.
        """
        _HANDLERS[record["op"]](self, record)

    def records(self) -> Iterator[Record]:
        """Return the shortest log with the same state."""
        yield from self.leases.values()
        yield from (
            {"op": "session_state", "session": name, **_to_record(journaled)}
            for name, journaled in self.sessions.items()
        )

    def repairs(self, is_missing: Callable[[Record], bool]) -> Iterator[Record]:
        """Return records that make every session replayable although some observed frames are missing.

        Only they may be: other files are on the disk itself before a record names them.

        Args:
            is_missing: tells whether a record's file is.
        """
        for name, journaled in list(self.sessions.items()):
            lost = {seq for seq, event in journaled.events if event["op"] == "observe" and is_missing(event)}
            if not lost:
                continue
            left, what = (
                journaled.without_events(lost, self.rewind_frames),
                f"session {name}: frames given to it are gone",
            )
            if left is None:
                logging.getLogger("worldsim").warning(
                    "journal: %s; it has ended. %s", what, _POWER_LOSS_REMEDY
                )
                yield {"op": "close", "session": name}
            else:
                note = "journal: %s; it goes on from seq %d, of %d. %s"
                logging.getLogger("worldsim").warning(note, what, left.seq, journaled.seq, _POWER_LOSS_REMEDY)
                yield {"op": "session_state", "session": name, **_to_record(left)}

    def owners(self) -> set[str]:
        """Return all leases, of sessions too."""
        return {*self.leases, *(journaled.lease for journaled in self.sessions.values())}

    def blobs(self) -> set[str]:
        """Return the names of files that some session needs."""
        return set(chain.from_iterable(journaled.blobs() for journaled in self.sessions.values()))

    def _lease(self, record: Record) -> None:
        self.leases[record["lease"]] = record

    def _end(self, record: Record) -> None:
        self.leases.pop(record["lease"], None)
        for name in [name for name, journaled in self.sessions.items() if journaled.lease == record["lease"]]:
            del self.sessions[name]

    def _open(self, record: Record) -> None:
        self.sessions[record["session"]] = JournaledSession(
            record["lease"], record, [RecoveryPoint(0, 0, record)]
        )

    def _event(self, record: Record) -> None:
        self.sessions[record["session"]].append_event(record, self.rewind_frames)

    def _fork(self, record: Record) -> None:
        parent = self.sessions[record["session"]]
        self.sessions.update({child: parent.fork(record) for child in record["children"]})

    def _snapshot(self, record: Record) -> None:
        point = RecoveryPoint(record["seq"], record["depth"], record)
        self.sessions[record["session"]].insert(point, self.rewind_frames, self.replies)

    def _close(self, record: Record) -> None:
        del self.sessions[record["session"]]

    def _session_state(self, record: Record) -> None:
        self.sessions[record["session"]] = JournaledSession(
            record["lease"],
            record["origin"],
            [RecoveryPoint(*point) for point in record["recovery_points"]],
            [(seq, event) for seq, event in record["events"]],
            record["seq"],
            record["depth"],
        )


_HANDLERS = {
    "lease": JournalState._lease,
    "end": JournalState._end,
    "open": JournalState._open,
    "restore": JournalState._open,
    "step": JournalState._event,
    "observe": JournalState._event,
    "rewind": JournalState._event,
    "fork": JournalState._fork,
    "snapshot": JournalState._snapshot,
    "close": JournalState._close,
    "session_state": JournalState._session_state,
}


def _depth_after(depth: int, event: Record, rewind_frames: int) -> int:
    """Frames that can be rewound after an event; negative if a rewind reaches too far back."""
    return depth - int(event["frames"]) if event["op"] == "rewind" else min(depth + 1, rewind_frames)


def _to_record(journaled: JournaledSession) -> dict[str, Any]:
    recovery_points = [[point.seq, point.depth, point.record] for point in journaled.recovery_points]
    return {
        "lease": journaled.lease,
        "origin": journaled.origin,
        "recovery_points": recovery_points,
        "events": journaled.events,
        "seq": journaled.seq,
        "depth": journaled.depth,
    }
