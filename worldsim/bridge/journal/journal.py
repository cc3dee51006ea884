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
| ``observe`` | ``session``, ``seq``, ``control``, ``shape`` and ``blob``: bytes of the frame |
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

from worldsim.bridge.journal.blob_store import BLOB, BlobStore
from worldsim.bridge.journal.journal_folder import (
    FORMAT,
    RESERVED_BYTES,
    check_free_space,
    check_header,
    lock_folder,
)
from worldsim.bridge.journal.journal_state import JournaledSession, JournalState, ReplayPlan
from worldsim.bridge.journal.wal import (
    Record,
    WriteAheadLog,
    read_wal,
    roundtripped,
    save_torn_tail,
    write_wal,
)
from worldsim.errors import BridgeError

__all__ = ["Journal", "ReplayPlan"]

_COMPACT_BYTES = 8 * 2**20
"""A log is written anew when it has more bytes than this and twice what it had when last written anew."""
_SWEEP_FILES = 16
"""Files written between two sweeps of those that are needed no more, or as many as are needed, if more."""
_MAX_UNSYNCED = 16
"""Frames given that may wait for the disk: clients that give more are as slow as it is."""
_MAX_PENDING_SNAPSHOTS = 64
"""Snapshots that may wait for the disk."""


@dataclass(frozen=True, slots=True)
class _PendingSnapshot:
    """A snapshot on its way to the disk."""

    session: str
    journaled: JournaledSession
    seq: int
    depth: int
    blob: bytes


class Journal:
    """The journal of one server. Methods may be called from any thread.

    Args:
        folder: made if need be; one process at a time.
        meta: what a replay depends on, such as the weights' digest; must be the same at every start.
        rewind_frames: frames that a session can rewind at most.
        replies: how many of a session's last replies a replay makes again.
        snapshot_interval: steps between two snapshots of a session.
        fsync: whether ``append`` waits for the disk itself, so that a loss of power takes nothing either;
            without it only the death of the process is survived.

    Raises:
        BridgeError: another process serves from here, ``meta`` differs, or the files are damaged.
    """

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, Any] | None = None,
        *,
        rewind_frames: int = 0,
        replies: int = 8,
        snapshot_interval: int = 64,
        fsync: bool = False,
    ) -> None:
        self.folder, self.snapshot_interval, self.fsync = Path(folder), snapshot_interval, fsync
        self._header = roundtripped(
            {"op": "journal", "format": FORMAT, "meta": dict(meta or {}), "rewind_frames": rewind_frames}
        )
        self._stack = contextlib.ExitStack()
        self._state = JournalState(rewind_frames, replies)
        self._lock = threading.RLock()
        self._snapshots: queue.Queue[_PendingSnapshot | None] = queue.Queue(_MAX_PENDING_SNAPSHOTS)
        self._pending: set[str] = set()
        self._reserved_blobs: set[str] = set()
        """Files that a record is about to name."""
        self._broken = self._closed = False
        self._open()
        self._writer = threading.Thread(target=self._run_writer, name="worldsim-journal", daemon=True)
        self._writer.start()

    @property
    def leases(self) -> dict[str, Record]:
        """The ``lease`` records of all leases that have not ended."""
        with self._lock:
            return dict(self._state.leases)

    @property
    def length(self) -> int:
        """Bytes of the log."""
        return self._log.size

    def recover(self) -> list[ReplayPlan]:
        """All sessions that are open, in the order in which they were made.

        Raises:
            BridgeError: a file that one of them needs is missing or damaged.
        """
        with self._lock:
            return [self._recovered(name, journaled) for name, journaled in self._state.sessions.items()]

    def load(self, event: Record) -> Record:
        """An event with the bytes that it names, if it names any.

        Raises:
            BridgeError: the file is missing or damaged.
        """
        return self._blobs.load(event)

    def check_free_space(self, size: int = 0) -> None:
        """Refuse, before anything has happened, what the disk may have no room for.

        Args:
            size: bytes that are to be written, beyond what records take.

        Raises:
            BridgeError: ``UNAVAILABLE``, or the journal is broken.
        """
        self._check_usable()
        check_free_space(self.folder, size + RESERVED_BYTES)

    def store(self, record: Record) -> Record:
        """Write a record's bytes to a file before what it tells of happens; ``append`` or ``drop`` it then.

        Raises:
            BridgeError: ``UNAVAILABLE``, they could not be written.
        """
        self.check_free_space(len(record.get(BLOB) or b""))
        with self._lock:
            stored = self._stored(record)
            self._reserved_blobs.add(stored.get(BLOB, ""))
            return stored

    def drop(self, record: Record) -> None:
        """Forget a record that ``store`` gave."""
        with self._lock:
            self._reserved_blobs.discard(record.get(BLOB, ""))
            self._blobs.drop(record[BLOB])

    def append(self, *records: Record) -> None:
        """Write down what has happened; acknowledge it only when this has returned.

        Raises:
            BridgeError: ``UNAVAILABLE``: nothing was written; take back what has happened. Any other code or error:
                acknowledge nothing and end, for the engine is ahead of what a new server would find.
        """
        if not records:
            return
        with self._lock:
            self.check_free_space(sum(len(record.get(BLOB) or "") for record in records))
            stored = [self._stored(record) for record in records]
            if self._blobs.unsynced > _MAX_UNSYNCED:
                self._blobs.sync()
            self._write(stored)
            self._reserved_blobs.difference_update(record.get(BLOB, "") for record in stored)
            if (
                self._log.size > self._limit
                or self._blobs.written_count >= self._sweep_at
                or self._blobs.unsynced
            ):
                self._wake_writer()

    def _stored(self, record: Record) -> Record:
        quick = not self.fsync and record["op"] == "observe"  # a disk's pause would hold up all others
        return self._blobs.store(record, synced=not quick)

    def _write(self, stored: list[Record]) -> None:
        """To the log, then to the ledger, which nothing of a failed write may reach."""
        end = self._log.end
        with self._failing_safe():
            self._log.append(stored)
        self._broken = True
        try:
            self._apply(stored)
        except BridgeError:
            self._log.cut(end)
            raise
        if self.fsync:
            self._log.sync()
        self._broken = False

    def open_sibling(self, folder: Path) -> Journal:
        """The journal of another server of the same world and settings, which has ended.

        Raises:
            BridgeError: it has not, or its world or settings are others.
        """
        replies, rewind_frames = self._state.replies, self._header["rewind_frames"]
        same = {
            "rewind_frames": rewind_frames,
            "replies": replies,
            "snapshot_interval": self.snapshot_interval,
            "fsync": self.fsync,
        }
        return Journal(folder, self._header["meta"], **same)

    def take_over(self, other: Journal) -> None:
        """Have all sessions of another journal written here; there they end afterwards.

        What is here already stays as it is: it was taken over before a crash kept it from ending there.

        Raises:
            BridgeError: as ``append``.
        """
        with self._lock:  # blobs must not be swept before the records that name them are there
            here = {*self._state.leases, *self._state.sessions}
            rows = [row for row in other._state.records() if row.get("session", row["lease"]) not in here]
            copied = [self._copy_blobs(row, other) for row in rows]
            self._blobs.sync()
            self.append(*copied)
        other.append(*({"op": "end", "lease": lease} for lease in other._state.owners()))

    def _copy_blobs(self, row: Record, other: Journal) -> Record:
        """A record of another journal whose blobs are copied to files here."""
        if row["op"] != "session_state":
            return row

        def copied(record: Record) -> Record:
            return self._blobs.store(other._blobs.load(record), synced=False)

        recovery_points = [[seq, depth, copied(record)] for seq, depth, record in row["recovery_points"]]
        return {
            **row,
            "recovery_points": recovery_points,
            "events": [[seq, copied(event)] for seq, event in row["events"]],
        }

    def due(self, session: str) -> bool:
        """Whether the time has come to call ``snapshot``: ``snapshot_interval`` steps after the last."""
        with self._lock:
            journaled = self._state.sessions.get(session)
            if journaled is None or session in self._pending or self._snapshots.full():
                return False
            return journaled.seq - journaled.recovery_points[-1].seq >= self.snapshot_interval

    def snapshot(self, session: str, blob: bytes) -> None:
        """Keep a snapshot of a session as it is after its last record; written in the background.

        It only makes a replay shorter: where it cannot be written, a warning is logged and nothing is lost.
        """
        with self._lock:
            self._check_usable()
            journaled = self._state.sessions[session]
            self._pending.add(session)
            pending = _PendingSnapshot(session, journaled, journaled.seq, journaled.depth, blob)
        self._snapshots.put(pending)

    def flush(self) -> None:
        """Wait until all snapshots are written."""
        self._snapshots.join()

    def close(self) -> None:
        """Finish writing, wait for the disk and let another process in; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._snapshots.put(None)
        self._writer.join()
        with contextlib.suppress(OSError):
            self._log.sync()
        self._log.close()
        self._stack.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        """Take the folder and read what is there."""
        lock_folder(self.folder, self._stack)
        try:
            self._blobs = BlobStore(self.folder / "blobs")
            self._log = self._read()
            self._limit = max(_COMPACT_BYTES, 2 * self._log.size)
            self._sweep()
            self.append(*self._state.repairs(self._blobs.is_missing))
        except BaseException:
            self._stack.close()
            raise

    def _read(self) -> WriteAheadLog:
        paths = sorted(self.folder.glob("log-????????"))
        if not paths:
            paths = [self.folder / "log-00000001"]
            write_wal(paths[0], [self._header])
        found = read_wal(paths[-1])
        check_header(found.records[0] if found.records else {}, self._header, paths[-1])
        self._apply(found.records[1:])
        save_torn_tail(paths[-1], found)
        for path in [*paths[:-1], *self.folder.glob("*.tmp")]:
            path.unlink()
        return WriteAheadLog(paths[-1], found.end)

    def _apply(self, records: list[Record]) -> None:
        try:
            for record in records:
                self._state.apply(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            rule = "a journal's records must tell of open sessions and known kinds"
            raise BridgeError(rule, f"{error!r} in {str(record)[:200]}", "report it") from error

    def _check_usable(self) -> None:
        if self._broken or self._closed:
            state = "closed" if self._closed else "broken by an earlier failure"
            raise BridgeError("a journal must be open and whole", state, "start the server again")

    def _recovered(self, name: str, journaled: JournaledSession) -> ReplayPlan:
        base = self._blobs.load(journaled.recovery_points[0].record)
        return ReplayPlan(
            name, journaled.lease, journaled.origin, base, list(journaled.events), journaled.seq
        )

    def _wake_writer(self) -> None:
        if self._snapshots.empty():  # otherwise the writer comes round anyway
            with contextlib.suppress(queue.Full):
                self._snapshots.put_nowait(None)

    def _run_writer(self) -> None:
        """The writer's thread: files to the disk, those that nobody needs away, long logs anew."""
        while True:
            pending = self._snapshots.get()
            try:
                if pending is not None:
                    self._write_snapshot(pending)
                self._blobs.sync()
                if self._blobs.written_count >= self._sweep_at:
                    self._sweep()
                self._compact()
            except (OSError, BridgeError) as error:
                logging.getLogger("worldsim").warning("journal: %s", error)
            finally:
                self._snapshots.task_done()
            if self._closed and self._snapshots.empty():
                return

    def _write_snapshot(self, pending: _PendingSnapshot) -> None:
        try:
            check_free_space(
                self.folder, len(pending.blob) + 2 * RESERVED_BYTES
            )  # what has happened goes first
            stored = self._blobs.store({BLOB: pending.blob})
            place = {"session": pending.session, "seq": pending.seq, "depth": pending.depth}
            record = {"op": "snapshot", **place, **stored}
            with self._lock:
                if self._state.sessions.get(pending.session) is pending.journaled and not self._broken:
                    with self._failing_safe():
                        self._log.append([record])
                    self._state.apply(record)
        finally:
            self._pending.discard(pending.session)

    @contextlib.contextmanager
    def _failing_safe(self) -> Iterator[None]:
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
            needed = self._state.blobs() | self._reserved_blobs
            unreferenced = self._blobs.unreferenced(needed)
            self._sweep_at = self._blobs.written_count + max(_SWEEP_FILES, len(needed))
        if unreferenced:
            self._log.sync()
        for path in unreferenced:
            path.unlink(missing_ok=True)

    def _compact(self) -> None:
        """Write a long log anew, as short as it can be."""
        with self._lock:
            if self._log.size <= self._limit or self._broken:
                return
            old, number = self._log, int(self._log.path.name.removeprefix("log-")) + 1
            path = self.folder / f"log-{number:08}"
            with self._failing_safe():
                self._log = self._rewrite(path)
            self._limit = max(_COMPACT_BYTES, 2 * self._log.size)
        old.close()
        old.path.unlink()

    def _rewrite(self, path: Path) -> WriteAheadLog:
        """What counts, in a new log; one that is there only in part must not be taken for the newest."""
        try:
            return WriteAheadLog(path, write_wal(path, [self._header, *self._state.records()]))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BridgeError("a long journal is written anew", f"{path}: {error}", "make room") from error
