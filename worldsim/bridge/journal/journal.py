"""Journal: durable record of all acknowledged requests, from which a new server recovers.

<folder>/          locked by the process that serves from here
  log-00000001     records in order; the newest log is valid
  torn-...         torn end of a log, after a crash
  blobs/           snapshots, given contexts and frames that records name

A record is a map with ``op``:

| op | besides |
|---|---|
| ``lease`` / ``end`` | ``lease`` and whatever the server wants back / ``lease``: its sessions go with it |
| ``open``, ``restore`` | ``session``, ``lease``, the request, ``blob``: bytes of a context or snapshot |
| ``fork`` | ``session`` (the parent), ``lease`` and ``children``: they begin as it is now, at seq 0 |
| ``step`` / ``rewind`` | ``session``, ``seq``, ``control``, ``plan``, ``denoising_steps`` / ..., ``frames`` |
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

from worldsim.bridge.journal import journal_folder
from worldsim.bridge.journal.blob_store import BLOB, BlobStore
from worldsim.bridge.journal.journal_state import JournaledSession, JournalState, ReplayPlan
from worldsim.bridge.journal.wal import Record, WriteAheadLog, normalized, read_wal, save_torn_tail, write_wal
from worldsim.errors import BridgeError

__all__ = ["Journal", "ReplayPlan"]

_COMPACT_BYTES = 8 * 2**20
"""Log size in bytes from which it is compacted, once it has doubled since the last compaction."""
_SWEEP_FILES = 16
"""Files written between two sweeps of unreferenced ones; as many as are referenced, if more."""
_MAX_UNSYNCED = 16
"""Observed frames that may wait for the disk; beyond that clients wait, too."""
_MAX_PENDING_SNAPSHOTS = 64
"""Snapshots that may wait to be written."""


@dataclass(frozen=True, slots=True)
class _PendingSnapshot:
    """Snapshot waiting to be written."""

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
        header = {"op": "journal", "format": journal_folder.FORMAT, "meta": dict(meta or {})}
        self._header = normalized({**header, "rewind_frames": rewind_frames})
        self._stack = contextlib.ExitStack()
        self._state = JournalState(rewind_frames, replies)
        self._lock = threading.RLock()
        self._snapshots: queue.Queue[_PendingSnapshot | None] = queue.Queue(_MAX_PENDING_SNAPSHOTS)
        self._pending: set[str] = set()
        self._reserved_blobs: set[str] = set()
        """Files that a coming record will name."""
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
        """Size of the log in bytes."""
        return self._log.size

    def recover(self) -> list[ReplayPlan]:
        """Return replay plans of all open sessions, oldest first.

        Raises:
            BridgeError: a file that one of them needs is missing or damaged.
        """
        with self._lock:
            items = self._state.sessions.items()
            return [
                one.replay_plan(name, self._blobs.load(one.recovery_points[0].record)) for name, one in items
            ]

    def load(self, event: Record) -> Record:
        """Return an event with its bytes loaded, if it has any.

        Raises:
            BridgeError: the file is missing or damaged.
        """
        return self._blobs.load(event)

    def check_free_space(self, size: int = 0) -> None:
        """Raise if the disk may have no room for a coming record.

        Args:
            size: bytes that are to be written, beyond what records take.

        Raises:
            BridgeError: ``UNAVAILABLE``, or the journal is broken.
        """
        self._check_usable()
        journal_folder.check_free_space(self.folder, size + journal_folder.RESERVED_BYTES)

    def store(self, record: Record) -> Record:
        """Write a record's bytes to a file in advance; then ``append`` or ``drop`` the record.

        Raises:
            BridgeError: ``UNAVAILABLE``, they could not be written.
        """
        self.check_free_space(len(record.get(BLOB) or b""))
        with self._lock:
            stored = self._stored(record)
            self._reserved_blobs.add(stored.get(BLOB, ""))
            return stored

    def drop(self, record: Record) -> None:
        """Delete the file of a record from ``store``."""
        with self._lock:
            self._reserved_blobs.discard(record.get(BLOB, ""))
            self._blobs.drop(record[BLOB])

    def append(self, *records: Record) -> None:
        """Append records; acknowledge their requests only after this has returned.

        Raises:
            BridgeError: ``UNAVAILABLE``: nothing was written; undo what has happened. After any other error
                acknowledge nothing and end: the engine is ahead of the journal.
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
            sweep_due = self._blobs.written_count >= self._sweep_at
            if sweep_due or self._log.size > self._limit or self._blobs.unsynced:
                self._wake_writer()

    def _stored(self, record: Record) -> Record:
        quick = not self.fsync and record["op"] == "observe"  # a disk's pause would hold up all others
        return self._blobs.store(record, synced=not quick)

    def _write(self, stored: list[Record]) -> None:
        """Write to the log, then to the state, which must not see a failed write."""
        end = self._log.end
        with self._failing_safe():
            self._log.append(stored)
        try:
            self._apply(stored)
            if self.fsync:
                self._log.sync()
        except BaseException as error:
            self._broken = True
            if isinstance(error, BridgeError):
                self._log.cut(end)
            raise

    def open_sibling(self, folder: Path) -> Journal:
        """Open the journal of another server of the same world and configuration, which has ended.

        Raises:
            BridgeError: it has not, or its world or settings are others.
        """
        options = {"rewind_frames": self._header["rewind_frames"], "replies": self._state.replies}
        options |= {"snapshot_interval": self.snapshot_interval, "fsync": self.fsync}
        return Journal(folder, self._header["meta"], **options)

    def take_over(self, other: Journal) -> None:
        """Copy all sessions of another journal to this one, and end them there.

        Sessions that are here already stay as they are: a crash kept them from ending there.

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
        """Copy a record of another journal with its blobs."""
        if row["op"] != "session_state":
            return row

        def copied(record: Record) -> Record:
            return self._blobs.store(other._blobs.load(record), synced=False)

        points = [[seq, depth, copied(record)] for seq, depth, record in row["recovery_points"]]
        events = [[seq, copied(event)] for seq, event in row["events"]]
        return {**row, "recovery_points": points, "events": events}

    def due(self, session: str) -> bool:
        """Return True if a session's next snapshot is due."""
        with self._lock:
            journaled = self._state.sessions.get(session)
            if journaled is None or session in self._pending or self._snapshots.full():
                return False
            return journaled.seq - journaled.recovery_points[-1].seq >= self.snapshot_interval

    def snapshot(self, session: str, blob: bytes) -> None:
        """Store a snapshot of a session after its last record, in the background.

        It only shortens a replay: if it cannot be written, a warning is logged and nothing is lost.
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
        """Finish writing, sync and unlock; closing twice is fine."""
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
        """Lock the folder and read the log."""
        journal_folder.lock_folder(self.folder, self._stack)
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
        journal_folder.check_header(found.records[0] if found.records else {}, self._header, paths[-1])
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

    def _wake_writer(self) -> None:
        if self._snapshots.empty():  # otherwise the writer comes round anyway
            with contextlib.suppress(queue.Full):
                self._snapshots.put_nowait(None)

    def _run_writer(self) -> None:
        """Writer thread: write snapshots, sync files, delete unreferenced ones, compact the log."""
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
            needed = len(pending.blob) + 2 * journal_folder.RESERVED_BYTES  # records go first
            journal_folder.check_free_space(self.folder, needed)
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
        """Mark the journal as broken after any exception but a ``BridgeError``, which was reverted."""
        try:
            yield
        except BaseException as error:
            self._broken |= not isinstance(error, BridgeError)  # never before: requests look without the lock
            raise

    def _sweep(self) -> None:
        """Delete unreferenced files, after syncing the records that dropped them."""
        with self._lock:
            needed = self._state.blobs() | self._reserved_blobs
            unreferenced = self._blobs.unreferenced(needed)
            self._sweep_at = self._blobs.written_count + max(_SWEEP_FILES, len(needed))
        if unreferenced:
            self._log.sync()
        for path in unreferenced:
            path.unlink(missing_ok=True)

    def _compact(self) -> None:
        """Rewrite a long log as short as possible."""
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
        """Write the current state to a new log; a partial one is deleted."""
        try:
            return WriteAheadLog(path, write_wal(path, [self._header, *self._state.records()]))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BridgeError("a long journal is written anew", f"{path}: {error}", "make room") from error
