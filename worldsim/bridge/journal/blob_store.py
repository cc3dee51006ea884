"""Blob store: files that a journal names (snapshots, contexts, frames), written atomically."""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Collection
from pathlib import Path

from worldsim.bridge.journal.wal import Record, disk_full_error, fsync_path
from worldsim.errors import BridgeError

__all__ = ["BLOB", "BlobStore"]

BLOB = "blob"
"""Key of a record for its bytes and, once stored, for the name of their file."""


class BlobStore:
    """Folder of blobs; may be used from any thread.

    Args:
        folder: made if need be; what an interrupted write left there is deleted.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.glob("*.tmp"):
            path.unlink()
        self._folder, self._lock = folder, threading.Lock()
        self._unsynced: list[Path] = []
        self.written_count = 0
        """Number of files written so far."""
        self._next = max((int(path.stem, 16) for path in folder.glob("*.blob")), default=0) + 1

    @property
    def unsynced(self) -> int:
        """Number of files not on the disk yet."""
        return len(self._unsynced)

    def save(self, blob: bytes, *, synced: bool = True) -> str:
        """Write bytes; return the file's name.

        Args:
            blob: the bytes.
            synced: whether they are on the disk itself when this returns; otherwise after ``sync``.

        Raises:
            BridgeError: ``UNAVAILABLE``, they could not be written.
        """
        with self._lock:
            name = f"{self._next:012x}.blob"
            self._next += 1
            self.written_count += 1
        path = self._folder / name
        building = path.with_suffix(".tmp")
        try:
            with os.fdopen(os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(blob)
                if synced:
                    file.flush()
                    os.fsync(file.fileno())
            building.replace(path)
        except OSError as error:  # no room, or no descriptor: nothing is there, and may be asked again
            building.unlink(missing_ok=True)
            raise disk_full_error(path, error) from error
        if synced:
            fsync_path(self._folder)
        else:
            with self._lock:
                self._unsynced.append(path)
        return name

    def sync(self) -> None:
        """Wait until all files are on the disk."""
        with self._lock:
            unsynced, self._unsynced = self._unsynced, []
        for path in unsynced:
            with contextlib.suppress(FileNotFoundError):  # nobody needs it any more
                fsync_path(path)
        if unsynced:
            fsync_path(self._folder)

    def store(self, record: Record, *, synced: bool = True) -> Record:
        """Return the record with its bytes saved to a file, or the record itself if it has none."""
        blob = record.get(BLOB)
        if not isinstance(blob, bytes):
            return record
        return {**record, BLOB: self.save(blob, synced=synced), "crc": zlib.crc32(blob)}

    def load(self, record: Record) -> Record:
        """Return the record with its bytes read back.

        Raises:
            BridgeError: the file is missing or damaged.
        """
        if record.get(BLOB) is None:
            return record
        path = self._folder / record[BLOB]
        data = path.read_bytes() if path.exists() else b""
        if zlib.crc32(data) != record["crc"]:
            state = "damaged" if path.exists() else "missing"
            rule = "a journal's blobs must match their checksums"
            raise BridgeError(rule, f"{path} is {state}", "put a copy of the folder in its place")
        return {**record, BLOB: data}

    def drop(self, name: str) -> None:
        """Delete a file that no record names."""
        (self._folder / name).unlink(missing_ok=True)

    def is_missing(self, record: Record) -> bool:
        """Return True if the record's file is missing or empty, as a loss of power may leave it."""
        path = self._folder / record[BLOB]
        return not path.exists() or not path.stat().st_size

    def unreferenced(self, needed: Collection[str]) -> list[Path]:
        """Return files that are not among those needed."""
        return [path for path in self._folder.glob("*.blob") if path.name not in needed]
