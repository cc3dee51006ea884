"""A folder of bytes that a journal names: snapshots, given contexts and frames, each whole or not there."""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Collection
from pathlib import Path

from worldsim.bridge.log import Record, full_disk, sync_name
from worldsim.errors import BridgeError

__all__ = ["BLOB", "Blobs"]

BLOB = "blob"
"""The key under which a record has its bytes, and once they are stored their file's name."""


class Blobs:
    """Files of bytes; may be used from any thread.

    Args:
        folder: made if need be; what an interrupted write left there is deleted.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.glob("*.tmp"):
            path.unlink()
        self._folder, self._lock = folder, threading.Lock()
        self._loose: list[Path] = []
        self.saved = 0
        """Files written so far."""
        self._next = max((int(path.stem, 16) for path in folder.glob("*.blob")), default=0) + 1

    @property
    def loose(self) -> int:
        """Files that a loss of power may still take."""
        return len(self._loose)

    def save(self, blob: bytes, *, settled: bool = True) -> str:
        """Write bytes; returns the file's name.

        Args:
            blob: the bytes.
            settled: whether they are on the disk itself when this returns; otherwise after ``settle``.

        Raises:
            BridgeError: ``BUSY``, they could not be written.
        """
        with self._lock:
            name = f"{self._next:012x}.blob"
            self._next += 1
            self.saved += 1
        path = self._folder / name
        building = path.with_suffix(".tmp")
        try:
            with os.fdopen(os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(blob)
                if settled:
                    file.flush()
                    os.fsync(file.fileno())
            building.replace(path)
        except OSError as error:  # no room, or no descriptor: nothing is there, and may be asked again
            building.unlink(missing_ok=True)
            raise full_disk(path, error) from error
        if settled:
            sync_name(self._folder)
        else:
            with self._lock:
                self._loose.append(path)
        return name

    def settle(self) -> None:
        """Wait until all files are on the disk itself."""
        with self._lock:
            loose, self._loose = self._loose, []
        for path in loose:
            with contextlib.suppress(FileNotFoundError):  # nobody needs it any more
                sync_name(path)
        if loose:
            sync_name(self._folder)

    def store(self, record: Record, *, settled: bool = True) -> Record:
        """The record with its bytes in a file, see ``save``, or the record itself where it has none left."""
        blob = record.get(BLOB)
        if not isinstance(blob, bytes):
            return record
        return {**record, BLOB: self.save(blob, settled=settled), "crc": zlib.crc32(blob)}

    def load(self, record: Record) -> Record:
        """What was given to ``store``, and ``crc``.

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

    def gone(self, record: Record) -> bool:
        """Whether the record's file is not there or empty: a loss of power leaves that of one not settled."""
        path = self._folder / record[BLOB]
        return not path.exists() or not path.stat().st_size

    def spare(self, needed: Collection[str]) -> list[Path]:
        """Files that are not among those needed."""
        return [path for path in self._folder.glob("*.blob") if path.name not in needed]
