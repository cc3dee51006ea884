"""Nothing lost: what a server has acknowledged, on disk, and what a new server goes on from.

<folder>/          locked by the process that serves from here
  log-00000001     records in the order in which they happened; the newest one counts
  torn-...         what a crash tore off the end of a log
  blobs/           snapshots, given contexts and frames that records name

A record is a map with ``op``:

| op | besides |
|---|---|
| ``lease`` / ``end`` | ``lease`` and whatever the server wants back / ``lease``: its sessions go with it |
| ``open``, ``restore`` | ``session``, ``lease``, the request, ``blob``: bytes of a context or snapshot |
| ``fork`` | ``session`` (the parent), ``lease`` and ``children``: they begin as it is now, at seq 0 |
| ``step`` / ``rewind`` | ``session``, ``seq`` and the request's own keys / ``session``, ``seq``, ``frames`` |
| ``anchor`` | ``session``, ``seq``, ``control``, ``shape`` and ``blob``: bytes of the frame |
| ``close`` | ``session`` |
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.bridge.blobs import BLOB, Blobs
from worldsim.bridge.ledger import Held, Ledger, Recovered
from worldsim.bridge.log import Log, Record, as_read, keep_tail, read_log, write_log
from worldsim.bridge.state_folder import FORMAT, SPARE, check_head, check_room, claim
from worldsim.errors import BridgeError

__all__ = ["Journal", "Recovered"]

_COMPACT = 8 * 2**20
"""A log is written anew when it has more bytes than this and twice what it had when last written anew."""
_SWEEP = 16
"""Files written between two sweeps of those that are needed no more, or as many as are needed, if more."""
_LOOSE = 16
"""Frames given that may wait for the disk: clients that give more are as slow as it is."""
_WAITING = 64
"""Snapshots that may wait for the disk."""


@dataclass(frozen=True, slots=True)
class _Shot:
    """A snapshot on its way to the disk."""

    session: str
    held: Held
    seq: int
    depth: int
    blob: bytes


class Journal:
    """The journal of one server. Methods may be called from any thread.

    Args:
        folder: made if need be; one process at a time.
        meta: what a replay depends on, such as the weights' digest; must be the same at every start.
        history: frames that a session can rewind at most.
        replies: how many of a session's last replies a replay makes again.
        every: steps between two snapshots of a session.
        durable: whether ``append`` waits for the disk itself, so that a loss of power takes nothing either;
            without it only the death of the process is survived.

    Raises:
        BridgeError: another process serves from here, ``meta`` differs, or the files are damaged.
    """

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, Any] | None = None,
        *,
        history: int = 0,
        replies: int = 8,
        every: int = 64,
        durable: bool = False,
    ) -> None:
        self.folder, self.every, self.durable = Path(folder), every, durable
        self._head = as_read(
            {"op": "journal", "format": FORMAT, "meta": dict(meta or {}), "history": history}
        )
        self._stack = contextlib.ExitStack()
        self._ledger = Ledger(history, replies)
        self._lock = threading.RLock()
        self._shots: queue.Queue[_Shot | None] = queue.Queue(_WAITING)
        self._pending: set[str] = set()
        self._promised: set[str] = set()
        """Files that a record is about to name."""
        self._broken = self._closed = False
        self._enter()
        self._writer = threading.Thread(target=self._write_shots, name="worldsim-journal", daemon=True)
        self._writer.start()

    @property
    def leases(self) -> dict[str, Record]:
        """The ``lease`` records of all leases that have not ended."""
        with self._lock:
            return dict(self._ledger.leases)

    @property
    def length(self) -> int:
        """Bytes of the log."""
        return self._log.size

    def recover(self) -> list[Recovered]:
        """All sessions that are open, in the order in which they were made.

        Raises:
            BridgeError: a file that one of them needs is missing or damaged.
        """
        with self._lock:
            return [self._recovered(name, held) for name, held in self._ledger.sessions.items()]

    def load(self, event: Record) -> Record:
        """An event with the bytes that it names, if it names any.

        Raises:
            BridgeError: the file is missing or damaged.
        """
        return self._blobs.load(event)

    def check_room(self, size: int = 0) -> None:
        """Refuse, before anything has happened, what the disk may have no room for.

        Args:
            size: bytes that are to be written, beyond what records take.

        Raises:
            BridgeError: ``BUSY``, or the journal is broken.
        """
        self._check_usable()
        check_room(self.folder, size + SPARE)

    def store(self, record: Record) -> Record:
        """Write a record's bytes to a file before what it tells of happens; ``append`` or ``drop`` it then.

        Raises:
            BridgeError: ``BUSY``, they could not be written.
        """
        self.check_room(len(record.get(BLOB) or b""))
        with self._lock:
            stored = self._stored(record)
            self._promised.add(stored.get(BLOB, ""))
            return stored

    def drop(self, record: Record) -> None:
        """Forget a record that ``store`` gave."""
        with self._lock:
            self._promised.discard(record.get(BLOB, ""))
            self._blobs.drop(record[BLOB])

    def append(self, *records: Record) -> None:
        """Write down what has happened; acknowledge it only when this has returned.

        Raises:
            BridgeError: ``BUSY``: nothing was written; take back what has happened. Any other code or error:
                acknowledge nothing and end, for the engine is ahead of what a new server would find.
        """
        if not records:
            return
        with self._lock:
            self.check_room(sum(len(record.get(BLOB) or "") for record in records))
            stored = [self._stored(record) for record in records]
            if self._blobs.loose > _LOOSE:
                self._blobs.settle()
            self._write(stored)
            self._promised.difference_update(record.get(BLOB, "") for record in stored)
            if self._log.size > self._limit or self._blobs.saved >= self._sweep_at or self._blobs.loose:
                self._wake()

    def _stored(self, record: Record) -> Record:
        quick = not self.durable and record["op"] == "anchor"  # a disk's pause would hold up all others
        return self._blobs.store(record, settled=not quick)

    def _write(self, stored: list[Record]) -> None:
        """To the log, then to the ledger, which nothing of a failed write may reach."""
        end = self._log.end
        with self._breakable():
            self._log.append(stored)
        self._broken = True
        try:
            self._apply(stored)
        except BridgeError:
            self._log.cut(end)
            raise
        if self.durable:
            self._log.sync()
        self._broken = False

    def sibling(self, folder: Path) -> Journal:
        """The journal of another server of the same world and settings, which has ended.

        Raises:
            BridgeError: it has not, or its world or settings are others.
        """
        replies, history = self._ledger.replies, self._head["history"]
        same = {"history": history, "replies": replies, "every": self.every, "durable": self.durable}
        return Journal(folder, self._head["meta"], **same)

    def take_over(self, other: Journal) -> None:
        """Have all sessions of another journal written here; there they end afterwards.

        What is here already stays as it is: it was taken over before a crash kept it from ending there.

        Raises:
            BridgeError: as ``append``.
        """
        with self._lock:  # blobs must not be swept before the records that name them are there
            here = {*self._ledger.leases, *self._ledger.sessions}
            rows = [row for row in other._ledger.records() if row.get("session", row["lease"]) not in here]
            copied = [self._with_blobs(row, other) for row in rows]
            self._blobs.settle()
            self.append(*copied)
        other.append(*({"op": "end", "lease": lease} for lease in other._ledger.owners()))

    def _with_blobs(self, row: Record, other: Journal) -> Record:
        """A record of another journal whose blobs are copied to files here."""
        if row["op"] != "held":
            return row

        def copied(record: Record) -> Record:
            return self._blobs.store(other._blobs.load(record), settled=False)

        moments = [[seq, depth, copied(record)] for seq, depth, record in row["moments"]]
        return {**row, "moments": moments, "events": [[seq, copied(event)] for seq, event in row["events"]]}

    def due(self, session: str) -> bool:
        """Whether the time has come to call ``snapshot``: ``every`` steps after the last."""
        with self._lock:
            held = self._ledger.sessions.get(session)
            if held is None or session in self._pending or self._shots.full():
                return False
            return held.seq - held.moments[-1].seq >= self.every

    def snapshot(self, session: str, blob: bytes) -> None:
        """Keep a snapshot of a session as it is after its last record; written in the background.

        It only makes a replay shorter: where it cannot be written, a warning is logged and nothing is lost.
        """
        with self._lock:
            self._check_usable()
            held = self._ledger.sessions[session]
            self._pending.add(session)
            shot = _Shot(session, held, held.seq, held.depth, blob)
        self._shots.put(shot)

    def flush(self) -> None:
        """Wait until all snapshots are written."""
        self._shots.join()

    def close(self) -> None:
        """Finish writing, wait for the disk and let another process in; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._shots.put(None)
        self._writer.join()
        with contextlib.suppress(OSError):
            self._log.sync()
        self._log.close()
        self._stack.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(self) -> None:
        """Take the folder and read what is there."""
        claim(self.folder, self._stack)
        try:
            self._blobs = Blobs(self.folder / "blobs")
            self._log = self._read()
            self._limit = max(_COMPACT, 2 * self._log.size)
            self._sweep()
            self.append(*self._ledger.mended(self._blobs.gone))
        except BaseException:
            self._stack.close()
            raise

    def _read(self) -> Log:
        paths = sorted(self.folder.glob("log-????????"))
        if not paths:
            paths = [self.folder / "log-00000001"]
            write_log(paths[0], [self._head])
        found = read_log(paths[-1])
        check_head(found.records[0] if found.records else {}, self._head, paths[-1])
        self._apply(found.records[1:])
        keep_tail(paths[-1], found)
        for path in [*paths[:-1], *self.folder.glob("*.tmp")]:
            path.unlink()
        return Log(paths[-1], found.end)

    def _apply(self, records: list[Record]) -> None:
        try:
            for record in records:
                self._ledger.apply(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            rule = "a journal's records must tell of open sessions and known kinds"
            raise BridgeError(rule, f"{error!r} in {str(record)[:200]}", "report it") from error

    def _check_usable(self) -> None:
        if self._broken or self._closed:
            state = "closed" if self._closed else "broken by an earlier failure"
            raise BridgeError("a journal must be open and whole", state, "start the server again")

    def _recovered(self, name: str, held: Held) -> Recovered:
        base = self._blobs.load(held.moments[0].record)
        return Recovered(name, held.lease, held.origin, base, list(held.events), held.seq)

    def _wake(self) -> None:
        if self._shots.empty():  # otherwise the writer comes round anyway
            with contextlib.suppress(queue.Full):
                self._shots.put_nowait(None)

    def _write_shots(self) -> None:
        """The writer's thread: files to the disk, those that nobody needs away, long logs anew."""
        while True:
            shot = self._shots.get()
            try:
                if shot is not None:
                    self._write_shot(shot)
                self._blobs.settle()
                if self._blobs.saved >= self._sweep_at:
                    self._sweep()
                self._compact()
            except (OSError, BridgeError) as error:
                logging.getLogger("worldsim").warning("journal: %s", error)
            finally:
                self._shots.task_done()
            if self._closed and self._shots.empty():
                return

    def _write_shot(self, shot: _Shot) -> None:
        try:
            check_room(self.folder, len(shot.blob) + 2 * SPARE)  # what has happened goes first
            stored = self._blobs.store({BLOB: shot.blob})
            place = {"session": shot.session, "seq": shot.seq, "depth": shot.depth}
            record = {"op": "snapshot", **place, **stored}
            with self._lock:
                if self._ledger.sessions.get(shot.session) is shot.held and not self._broken:
                    with self._breakable():
                        self._log.append([record])
                    self._ledger.apply(record)
        finally:
            self._pending.discard(shot.session)

    @contextlib.contextmanager
    def _breakable(self) -> Iterator[None]:
        """A failure that has been made good is a ``BridgeError``; after any other the journal is broken."""
        self._broken = True
        try:
            yield
        except BridgeError:
            self._broken = False
            raise
        self._broken = False

    def _sweep(self) -> None:
        """Delete files that no session needs, once the records that say so cannot be lost."""
        with self._lock:
            needed = self._ledger.blobs() | self._promised
            spare = self._blobs.spare(needed)
            self._sweep_at = self._blobs.saved + max(_SWEEP, len(needed))
        if spare:
            self._log.sync()
        for path in spare:
            path.unlink(missing_ok=True)

    def _compact(self) -> None:
        """Write a long log anew, as short as it can be."""
        with self._lock:
            if self._log.size <= self._limit or self._broken:
                return
            old, number = self._log, int(self._log.path.name.removeprefix("log-")) + 1
            path = self.folder / f"log-{number:08}"
            with self._breakable():
                self._log = self._rewrite(path)
            self._limit = max(_COMPACT, 2 * self._log.size)
        old.close()
        old.path.unlink()

    def _rewrite(self, path: Path) -> Log:
        """What counts, in a new log; one that is there only in part must not be taken for the newest."""
        try:
            return Log(path, write_log(path, [self._head, *self._ledger.records()]))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BridgeError("a long journal is written anew", f"{path}: {error}", "make room") from error
