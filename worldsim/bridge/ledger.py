"""What a journal's records amount to: per session, moments to begin it from again and what came after.

A replay has to end in the state that the crash took away, with as many frames to rewind as there were. A
snapshot holds none of them, so a session is begun again from the newest snapshot that lies far enough back:
after it came at least as many frames as could be rewound and as many replies as are remembered. Older moments
are forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from worldsim.bridge.blobs import BLOB
from worldsim.bridge.log import Record

__all__ = ["Held", "Ledger", "Moment", "Recovered"]

_REMEDY = "A loss of power took them: serve with --durable, which waits for the disk"


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a session can be begun again from."""

    seq: int
    depth: int
    """Frames that could be rewound then."""
    record: Record
    """``open``, ``restore`` or ``snapshot``."""

    @property
    def blob(self) -> str | None:
        """The file with its bytes."""
        return self.record.get(BLOB)


@dataclass(slots=True)
class Held:
    """One session."""

    lease: str
    origin: Record
    """The request that made it: ``open``, ``restore`` or ``fork``."""
    moments: list[Moment]
    """Oldest first; all but the oldest are snapshots."""
    events: list[tuple[int, Record]] = field(default_factory=list)
    """(seq, ``step``, ``anchor`` or ``rewind``) since the oldest moment."""
    seq: int = 0
    """The last one taken."""
    depth: int = 0
    """Frames that can be rewound."""

    def take(self, record: Record, history: int) -> None:
        """Add a step, an anchor or a rewind."""
        self.seq = record["seq"]
        self.depth = _deeper(self.depth, record, history)
        self.events.append((self.seq, record))

    def fork(self, record: Record) -> Held:
        """A copy that counts from 0; what its parent did lies at seq <= 0."""
        moments = [Moment(at.seq - self.seq, at.depth, at.record) for at in self.moments]
        events = [(seq - self.seq, event) for seq, event in self.events]
        return Held(record["lease"], record, moments, events, 0, self.depth)

    def insert(self, moment: Moment, history: int, replies: int) -> None:
        """Add a snapshot, and forget all before the newest moment from which a replay reaches everything."""
        self.moments.append(moment)
        while len(self.moments) > 1 and self._enough(self.moments[1], history, replies):
            del self.moments[0]
        first = self.moments[0].seq
        self.events = [(seq, event) for seq, event in self.events if seq > first]

    def _enough(self, moment: Moment, history: int, replies: int) -> bool:
        depth = 0
        for seq, event in self.events:
            if seq > moment.seq:
                depth = _deeper(depth, event, history)
                if depth < 0:
                    return False
        return depth == self.depth and self.seq - moment.seq >= replies

    def without(self, lost: set[int], history: int) -> Held | None:
        """As much of it as can be made again without the events of some seqs; None where that is nothing.

        A snapshot taken after them stands for them; without one the session ends before the first that is
        missing.

        Args:
            lost: seqs, as ``events`` counts them.
            history: frames that a session can rewind at most.
        """
        newest = self.moments[-1].seq
        end = min((seq - 1 for seq in lost if seq > newest), default=self.seq)
        begin = max((seq for seq in lost if seq <= end), default=self.moments[0].seq)
        moments = [moment for moment in self.moments if begin <= moment.seq]
        left = Held(self.lease, self.origin, moments[:1], [], moments[0].seq)
        for seq, event in self.events:
            if left.seq < seq <= end:
                depth = _deeper(left.depth, event, history)
                if depth < 0:  # back to before it can be begun from
                    break
                left.seq, left.depth = seq, depth
                left.events.append((seq, event))
        left.moments = [moment for moment in moments if moment.seq <= left.seq]
        return left if left.seq >= 0 else None  # what its parent was when it was forked is gone

    def blobs(self) -> Iterator[str]:
        """Files that this session needs."""
        yield from (moment.blob for moment in self.moments if moment.blob)
        yield from (event[BLOB] for _, event in self.events if BLOB in event)


@dataclass(frozen=True, slots=True)
class Recovered:
    """A session to be made again: begin at ``base``, then take ``events`` in their order."""

    session: str
    lease: str
    origin: Record
    """The ``open``, ``restore`` or ``fork`` that made it, with the name of its blob's file at most."""
    base: Record
    """``open``: begin as asked then, ``blob`` being the context's bytes if one was given; ``restore`` or
    ``snapshot``: ``blob`` is the engine's snapshot."""
    events: list[tuple[int, Record]]
    """(seq, ``step``, ``anchor`` or ``rewind``); seq <= 0 happened to its parent before a fork. An anchor's
    ``blob`` is still its file's name: ``Journal.load``."""
    seq: int
    """The last one taken."""


class Ledger:
    """Leases and sessions as the records so far leave them.

    Args:
        history: frames that a session of this engine can rewind at most.
        replies: how many of a session's last replies must be made again by a replay.
    """

    def __init__(self, history: int, replies: int) -> None:
        self.history, self.replies = history, replies
        self.leases: dict[str, Record] = {}
        self.sessions: dict[str, Held] = {}

    def apply(self, record: Record) -> None:
        """Take a record in.

        Raises:
            KeyError: it is of no known kind, lacks something, or tells of a session that is not there.
        """
        _KINDS[record["op"]](self, record)

    def records(self) -> Iterator[Record]:
        """The shortest log that amounts to the same."""
        yield from self.leases.values()
        yield from ({"op": "held", "session": name, **_plain(held)} for name, held in self.sessions.items())

    def mended(self, gone: Callable[[Record], bool]) -> Iterator[Record]:
        """Records that make every session one that can be made again although some frames given are gone.

        Only they may be: other files are on the disk itself before a record names them.

        Args:
            gone: tells whether a record's file is.
        """
        for name, held in list(self.sessions.items()):
            lost = {seq for seq, event in held.events if event["op"] == "anchor" and gone(event)}
            if not lost:
                continue
            left, what = held.without(lost, self.history), f"session {name}: frames given to it are gone"
            if left is None:
                logging.getLogger("worldsim").warning("journal: %s; it has ended. %s", what, _REMEDY)
                yield {"op": "close", "session": name}
            else:
                note = "journal: %s; it goes on from seq %d, of %d. %s"
                logging.getLogger("worldsim").warning(note, what, left.seq, held.seq, _REMEDY)
                yield {"op": "held", "session": name, **_plain(left)}

    def owners(self) -> set[str]:
        """Leases, of sessions too."""
        return {*self.leases, *(held.lease for held in self.sessions.values())}

    def blobs(self) -> set[str]:
        """Files that some session needs."""
        return set(chain.from_iterable(held.blobs() for held in self.sessions.values()))

    def _lease(self, record: Record) -> None:
        self.leases[record["lease"]] = record

    def _end(self, record: Record) -> None:
        self.leases.pop(record["lease"], None)
        for name in [name for name, held in self.sessions.items() if held.lease == record["lease"]]:
            del self.sessions[name]

    def _open(self, record: Record) -> None:
        self.sessions[record["session"]] = Held(record["lease"], record, [Moment(0, 0, record)])

    def _event(self, record: Record) -> None:
        self.sessions[record["session"]].take(record, self.history)

    def _fork(self, record: Record) -> None:
        parent = self.sessions[record["session"]]
        self.sessions.update({child: parent.fork(record) for child in record["children"]})

    def _snapshot(self, record: Record) -> None:
        moment = Moment(record["seq"], record["depth"], record)
        self.sessions[record["session"]].insert(moment, self.history, self.replies)

    def _close(self, record: Record) -> None:
        del self.sessions[record["session"]]

    def _held(self, record: Record) -> None:
        self.sessions[record["session"]] = Held(
            record["lease"],
            record["origin"],
            [Moment(*moment) for moment in record["moments"]],
            [(seq, event) for seq, event in record["events"]],
            record["seq"],
            record["depth"],
        )


_KINDS = {
    "lease": Ledger._lease,
    "end": Ledger._end,
    "open": Ledger._open,
    "restore": Ledger._open,
    "step": Ledger._event,
    "anchor": Ledger._event,
    "rewind": Ledger._event,
    "fork": Ledger._fork,
    "snapshot": Ledger._snapshot,
    "close": Ledger._close,
    "held": Ledger._held,
}


def _deeper(depth: int, event: Record, history: int) -> int:
    """Frames that can be rewound after one of them; negative where the rewind reaches too far back."""
    return depth - int(event["frames"]) if event["op"] == "rewind" else min(depth + 1, history)


def _plain(held: Held) -> dict[str, Any]:
    moments = [[moment.seq, moment.depth, moment.record] for moment in held.moments]
    return {
        "lease": held.lease,
        "origin": held.origin,
        "moments": moments,
        "events": held.events,
        "seq": held.seq,
        "depth": held.depth,
    }
