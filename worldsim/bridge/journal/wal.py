"""Write-ahead log: msgpack records, each with a checksum of its own and one of all records before it.

    file     "WSIMLOG2", salt [8], crc32 of both [4], records
    record   marker [4], length [4], chain [4], crc32 of the body [4], crc32 of the head so far [4], body

Numbers are little-endian. The marker and the start of the chain come from the salt, which is random for each
file; ``chain`` is the crc32 of everything before the record. So a record that is damaged, missing, doubled or
misplaced is detected wherever another one follows it. Damage that no whole record follows counts as a torn
write: it is truncated, saved to a file of its own, and reported.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from worldsim.bridge.wire.protocol import Code
from worldsim.errors import BridgeError

__all__ = [
    "LogContents",
    "LogPosition",
    "Record",
    "WriteAheadLog",
    "disk_full_error",
    "normalized",
    "read_wal",
    "save_torn_tail",
    "write_wal",
]

Record = dict[str, Any]
"""Record of the log; ``op`` names its kind."""

_MAGIC = b"WSIMLOG2"
_SALT = 8
_CRC = struct.Struct("<I")
_FILE_HEADER_SIZE = len(_MAGIC) + _SALT + _CRC.size
_RECORD_HEAD = struct.Struct("<4sIII")
_MAX_RECORD = 64 * 2**20
_RETRY_MS = 1000.0


@dataclass(frozen=True, slots=True)
class LogPosition:
    """End of a log: position, checksum chain and salt for the next record."""

    size: int
    """Byte position."""
    chain: int
    """crc32 of all bytes before it."""
    salt: bytes

    def add(self, record: Record) -> tuple[bytes, LogPosition]:
        """Return the bytes of a record, and the position after it."""
        body: bytes = msgpack.packb(record, use_bin_type=True)
        head = _RECORD_HEAD.pack(self.salt[:4], len(body), self.chain, zlib.crc32(body))
        data = head + _CRC.pack(_head_crc(head, self.salt)) + body
        return data, LogPosition(self.size + len(data), zlib.crc32(data, self.chain), self.salt)


@dataclass(frozen=True, slots=True)
class LogContents:
    """Contents of a log."""

    records: list[Record]
    end: LogPosition
    """Position after the last whole record."""
    torn: bytes
    """Bytes after it: a torn record, or zeros."""


def normalized(record: Record) -> Record:
    """Return a record as it is read back, with lists for tuples."""
    read: Record = _unpack(msgpack.packb(record, use_bin_type=True))
    return read


class WriteAheadLog:
    """Log open for appending, truncated after its last whole record."""

    def __init__(self, path: Path, end: LogPosition) -> None:
        self.path, self.end = path, end
        self._file = os.open(path, os.O_WRONLY)
        os.fchmod(self._file, 0o600)
        self.cut(end)

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self.end.size

    def append(self, records: Iterable[Record]) -> None:
        """Write records; from then on they outlive the process, though not a loss of power (see ``sync``).

        Raises:
            BridgeError: ``UNAVAILABLE``, the disk is full; the file is as long as before.
        """
        end, parts = self.end, []
        for record in records:
            part, end = end.add(record)
            parts.append(part)
        data = memoryview(b"".join(parts))
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self.cut(self.end)
            raise disk_full_error(self.path, error) from error
        self.end = end

    def cut(self, end: LogPosition) -> None:
        """Truncate to an earlier position."""
        os.ftruncate(self._file, end.size)
        os.lseek(self._file, end.size, os.SEEK_SET)
        self.end = end

    def sync(self) -> None:
        """Wait until all data is on the disk."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def disk_full_error(path: Path, error: object) -> BridgeError:
    """Error for a full disk: ``UNAVAILABLE``, retry later."""
    rule = "the journal must be written before anything is acknowledged"
    remedy = "make room on its disk"
    return BridgeError(rule, f"{path}: {error}", remedy, code=Code.UNAVAILABLE, retry_after_ms=_RETRY_MS)


def read_wal(path: Path) -> LogContents:
    """Read all whole records of a log, their end, and the torn tail.

    Raises:
        BridgeError: no log, or one of another format, or a record that is damaged, missing, doubled or
            misplaced although whole ones follow, which no crash explains. The file stays as it is.
    """
    data = path.read_bytes()
    salt = data[len(_MAGIC) : len(_MAGIC) + _SALT]
    if (
        data[: len(_MAGIC)] != _MAGIC
        or data[len(_MAGIC) + _SALT : _FILE_HEADER_SIZE] != _file_header(salt)[-_CRC.size :]
    ):
        rule, remedy = f"a log must begin with {_MAGIC.decode()} and a salt", "serve with an empty folder"
        raise BridgeError(rule, f"{path}: {data[:_FILE_HEADER_SIZE].hex()}", remedy)
    end, records = LogPosition(_FILE_HEADER_SIZE, zlib.crc32(data[:_FILE_HEADER_SIZE]), salt), []
    while (body := _read_body(data, end.size, salt, end.chain)) is not None:
        size = end.size + _RECORD_HEAD.size + _CRC.size + len(body)
        records.append(_unpack(body))
        end = LogPosition(size, zlib.crc32(data[end.size : size], end.chain), salt)
    if _has_record_after(data, end.size, salt):
        rule = "a journal's records must match their checksums, each the one before it"
        remedy = "put a copy of the folder in its place, or serve with an empty one"
        raise BridgeError(rule, f"{path}: damaged at byte {end.size} of {len(data)}", remedy)
    return LogContents(records, end, data[end.size :])


def save_torn_tail(path: Path, found: LogContents) -> None:
    """Save the torn tail of a log beside it, with a warning; zeros are dropped."""
    if not found.torn:
        return
    what = f"journal: {path}: {len(found.torn)} bytes after byte {found.end.size} are no whole record"
    if not any(found.torn):
        logging.getLogger("worldsim").warning("%s but zeros; they are cut off", what)
        return
    tail = path.with_name(f"torn-{path.name}-{found.end.size}-{zlib.crc32(found.torn):08x}")
    _write(tail, [found.torn])
    told = "%s: a crash tore them, or the last record is damaged; they are cut off and kept in %s"
    logging.getLogger("worldsim").warning(told, what, tail.name)


def write_wal(path: Path, records: Iterable[Record]) -> LogPosition:
    """Write a whole log atomically, also across a loss of power."""
    salt = os.urandom(_SALT)
    first = _file_header(salt)
    end, parts = LogPosition(len(first), zlib.crc32(first), salt), [first]
    for record in records:
        part, end = end.add(record)
        parts.append(part)
    _write(path, parts)
    return end


def fsync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file atomically, readable by its owner only."""
    building = path.with_name(f"{path.name}.tmp")
    with os.fdopen(os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    building.replace(path)
    fsync_path(path.parent)


def _file_header(salt: bytes) -> bytes:
    return _MAGIC + salt + _CRC.pack(zlib.crc32(_MAGIC + salt))


def _head_crc(head: bytes, salt: bytes) -> int:
    return zlib.crc32(head, zlib.crc32(salt))


def _unpack(body: bytes) -> Any:
    return msgpack.unpackb(body, raw=False, strict_map_key=False)


def _read_body(data: bytes, at: int, salt: bytes, chain: int | None = None) -> bytes | None:
    """Return the body of the record at byte ``at`` (that continues ``chain``, if given), or None."""
    begin = at + _RECORD_HEAD.size + _CRC.size
    if begin > len(data):
        return None
    head = data[at : at + _RECORD_HEAD.size]
    marker, length, before, crc = _RECORD_HEAD.unpack(head)
    if marker != salt[:4] or _CRC.unpack_from(data, at + _RECORD_HEAD.size)[0] != _head_crc(head, salt):
        return None
    body = data[begin : begin + length]
    fits = 0 < length <= _MAX_RECORD and len(body) == length and zlib.crc32(body) == crc
    return body if fits and chain in (None, before) else None


def _has_record_after(data: bytes, at: int, salt: bytes) -> bool:
    """Return True if a whole record begins anywhere from byte ``at`` on."""
    while (at := data.find(salt[:4], at)) >= 0:
        if _read_body(data, at, salt) is not None:
            return True
        at += 1
    return False
