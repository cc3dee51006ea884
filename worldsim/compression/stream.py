"""The file of a compressed episode: a header in JSON, controls, coded bits, and a checksum of all.

magic (8 bytes) · length of the header (4 bytes, little endian) · header · controls · coded bits · sha256
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from worldsim.errors import DataError

__all__ = ["Header", "pack", "unpack"]

_MAGIC = b"wsbits\x00\x01"
_DIGEST = 32
_MOST_HEADER = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Facts that a reader needs."""

    world: str
    """Name of the world."""
    weights_sha256: str
    """sha256 of its weights."""
    machine: str
    """Arithmetic that the chances were worked out with."""
    frames: int
    """Number of frames, T."""
    controls: int
    """Length of a control vector, M."""
    control_bytes: int
    """Length of the packed controls."""


def pack(header: Header, controls: bytes, payload: bytes) -> bytes:
    """The file's bytes."""
    text = json.dumps(asdict(header)).encode()
    body = b"".join([_MAGIC, struct.pack("<I", len(text)), text, controls, payload])
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, path: Path) -> tuple[Header, np.ndarray, bytes]:
    """Header, controls float32 [T, M] and coded bits of a file.

    Raises:
        DataError: it is no such file, is cut short, or was changed.
    """
    if not data.startswith(_MAGIC):
        raise DataError("the file must be one of `worldsim compress`", str(path), "choose another file")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if len(data) < len(_MAGIC) + 4 + _DIGEST or hashlib.sha256(body).digest() != digest:
        rule = "a compressed file must be whole and unchanged"
        raise DataError(rule, f"{path}: {len(data)} bytes", "copy it again, or compress again")
    start = len(_MAGIC) + 4
    (length,) = struct.unpack("<I", body[start - 4 : start])
    header = _header(body[start : start + length], length, path)
    packed = body[start + length : start + length + header.control_bytes]
    return header, _controls(packed, header, path), body[start + length + header.control_bytes :]


def _header(text: bytes, length: int, path: Path) -> Header:
    try:
        if length > _MOST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        found = json.loads(text)
        header = Header(**{field.name: found[field.name] for field in fields(Header)})
        counts = (header.frames, header.controls, header.control_bytes)
        if not all(isinstance(count, int) and 0 <= count < 2**31 for count in counts):
            raise ValueError(f"counts {counts}")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("a compressed file must have its header", f"{path}: {error}") from error
    return header


def _controls(packed: bytes, header: Header, path: Path) -> np.ndarray:
    wanted = 4 * header.frames * header.controls
    try:
        raw = zlib.decompressobj().decompress(packed, wanted + 1)
    except zlib.error as error:
        raise DataError("a compressed file must have its controls", f"{path}: {error}") from error
    if len(raw) != wanted:
        raise DataError(f"a compressed file must have {wanted} bytes of controls", f"{path}: {len(raw)}")
    return np.frombuffer(raw, "<f4").reshape(header.frames, header.controls).astype(np.float32)
