"""A file that only grows: length + crc32 + msgpack records; what a crash tore off its end is cut away."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from worldsim.errors import BridgeError

__all__ = ["Log", "Record", "as_read", "read_log", "write_log"]

Record = dict[str, Any]
"""What one line of a log says; ``op`` names its kind."""

_HEAD = struct.Struct("<II")
_LARGEST = 64 * 2**20


def frame(record: Record) -> bytes:
    """A record as it lies in the file."""
    body: bytes = msgpack.packb(record, use_bin_type=True)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def as_read(record: Record) -> Record:
    """A record as it comes back from the file: with lists for tuples."""
    read: Record = next(_records(frame(record)))[0]
    return read


class Log:
    """A log open for appending, positioned after its last whole record."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)

    def append(self, records: Iterable[Record]) -> None:
        """Write records; from then on they outlive the process, though not a loss of power (see ``sync``).

        Raises:
            BridgeError: the disk took none or only some; the file is again as long as before.
        """
        data = memoryview(b"".join(map(frame, records)))
        taken = 0
        try:
            while taken < len(data):
                taken += os.write(self._file, data[taken:])
        except OSError as error:
            os.ftruncate(self._file, self.size)
            os.lseek(self._file, self.size, os.SEEK_SET)
            rule = "the journal must be written before anything is acknowledged"
            raise BridgeError(rule, f"{self.path}: {error}", "make room on its disk") from error
        self.size += taken

    def sync(self) -> None:
        """Wait until all of it is on the disk itself."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read_log(path: Path) -> tuple[list[Record], int]:
    """All whole records of a log, and how many bytes they take: what follows was torn off by a crash.

    Raises:
        BridgeError: a record is damaged although others follow it, which no crash explains.
    """
    data = path.read_bytes()
    records, at = [], 0
    for record, end in _records(data):
        records.append(record)
        at = end
    if not _torn(data, at):
        rule = "a journal's records must match their checksums"
        remedy = "put a copy of the folder in its place, or serve with an empty one"
        raise BridgeError(rule, f"{path}: damaged at byte {at} of {len(data)}", remedy)
    return records, at


def write_log(path: Path, records: Iterable[Record]) -> None:
    """Write a whole log so that either all of it or none of it is there, whenever the machine stops."""
    building = path.with_name(f"{path.name}.tmp")
    with building.open("wb") as file:
        for record in records:
            file.write(frame(record))
        file.flush()
        os.fsync(file.fileno())
    building.replace(path)
    sync_name(path.parent)


def sync_name(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _records(data: bytes) -> Iterator[tuple[Record, int]]:
    """Whole records from the start, each with the byte after it."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        body = data[at + _HEAD.size : end]
        if not 0 < length <= _LARGEST or end > len(data) or zlib.crc32(body) != crc:
            return
        yield msgpack.unpackb(body, raw=False, strict_map_key=False), end
        at = end


def _torn(data: bytes, at: int) -> bool:
    """Whether what follows byte ``at`` is what a write cut short leaves: an incomplete record, or zeros."""
    rest = data[at:]
    if len(rest) < _HEAD.size or not any(rest):
        return True
    length = _HEAD.unpack_from(rest)[0]
    return 0 < length <= _LARGEST and at + _HEAD.size + length >= len(data)
