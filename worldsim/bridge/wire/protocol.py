"""Wire messages, encoded and decoded, as ``docs/protocol.md`` specifies. NumPy and msgpack only, no torch.

Messages are checked before they are parsed: parts, sizes, depth, types. An invalid one raises ``BridgeError``
and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import msgpack
import numpy as np

from worldsim.errors import BridgeError

__all__ = [
    "CODECS",
    "MAGIC",
    "REMEMBERED",
    "REPLY",
    "REQUEST",
    "VERSION",
    "ClientLimits",
    "Code",
    "Message",
    "MessageLimits",
    "control_address",
    "decode",
    "describe",
    "encode",
    "error_body",
    "is_local",
    "parse_error",
    "read_array",
]

VERSION = 1
MAGIC = b"WSIM" + bytes([VERSION])
"""The first part of every message."""
CODECS = ("raw", "jpeg", "latent", "none")
"""Codecs of a step's frame."""
REMEMBERED = 8
"""Number of replies per session remembered for retries."""
_DTYPES = {"u1": "<u1", "f2": "<f2", "f4": "<f4", "f8": "<f8"}
_PLAIN = frozenset((str, int, bool, type(None)))
_DEPTH = 6
_MIB = 2**20


class Code(StrEnum):
    """Error codes."""

    BAD_REQUEST = "BAD_REQUEST"
    VERSION = "VERSION"
    UNKNOWN_SESSION = "UNKNOWN_SESSION"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    OUT_OF_ORDER = "OUT_OF_ORDER"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    DRAINING = "DRAINING"
    ENGINE = "ENGINE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """Size limits of a message."""

    header: int
    """Bytes."""
    payload: int
    """Bytes per payload."""
    payloads: int = 4


REQUEST = MessageLimits(header=64 * 1024, payload=8 * _MIB)
"""Limits of requests."""
REPLY = MessageLimits(header=256 * 1024, payload=64 * _MIB)
"""Limits of replies: all frames of a ``step_many`` come in one."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits of one client."""

    sessions: int = 256
    """Sessions of one lease."""
    waiting: int = 64
    """Requests of one client that wait for an answer."""
    items: int = 256
    """Items of one ``step_many``."""
    chunk: int = REMEMBERED
    """Controls of one ``step_chunk``; no more than replies are remembered, so that a retry finds them all."""
    rate: int = 5000
    """Requests of one client a second."""
    malformed: int = 100
    """Malformed messages of one client a second that are answered."""
    header: int = REQUEST.header
    payload: int = REQUEST.payload
    payloads: int = REQUEST.payloads

    def to_dict(self) -> dict[str, int]:
        """Return the limits as ``hello`` sends them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Message:
    """Message: a header of plain values, and raw payloads."""

    header: dict[str, Any]
    payloads: list[Any] = field(default_factory=list)
    """Bytes-like payloads."""


def encode(
    header: Mapping[str, Any], payloads: Sequence[Any] = (), bounds: MessageLimits = REQUEST
) -> list[Any]:
    """Encode a message into its parts.

    Args:
        header: None, bool, int, finite float, str, list and dict with string keys.
        payloads: bytes-like each, C-contiguous.
        bounds: those of the side that reads it.

    Raises:
        BridgeError: ``RESOURCE_EXHAUSTED`` for what the other side would refuse.
    """
    body = msgpack.packb(header)
    _check_size("a header", len(body), bounds.header, Code.RESOURCE_EXHAUSTED)
    if len(payloads) > bounds.payloads:
        raise BridgeError(
            f"a message may have {bounds.payloads} payloads", len(payloads), code=Code.RESOURCE_EXHAUSTED
        )
    for payload in payloads:
        _check_size("a payload", memoryview(payload).nbytes, bounds.payload, Code.RESOURCE_EXHAUSTED)
    return [MAGIC, body, *payloads]


def decode(parts: Sequence[Any], bounds: MessageLimits = REQUEST) -> Message:
    """Decode a message from its parts.

    Args:
        parts: bytes-like each, without the identity that a ROUTER puts before them.
        bounds: how large it may be.

    Raises:
        BridgeError: ``BAD_REQUEST`` for anything malformed, ``VERSION`` for another version.
    """
    if not 2 <= len(parts) <= 2 + bounds.payloads:
        raise BridgeError(f"a message must have 2 to {2 + bounds.payloads} parts", len(parts))
    if parts[0] != MAGIC:
        raise _wrong_magic(bytes(parts[0][:16]))
    _check_size("a header", len(parts[1]), bounds.header)
    for payload in parts[2:]:
        _check_size("a payload", len(payload), bounds.payload)
    return Message(_read_header(parts[1]), list(parts[2:]))


def describe(array: np.ndarray, part: int = 0) -> dict[str, Any]:
    """Return the header entry of an array in payload ``part``; send it C-contiguous.

    Raises:
        BridgeError: a type that does not travel.
    """
    kind = array.dtype.str[1:]
    if kind not in _DTYPES or array.dtype.str[0] == ">":
        rule = f"an array that travels must be of {', '.join(_DTYPES)}"
        raise BridgeError(rule, str(array.dtype), "convert it with astype")
    return {"dtype": kind, "shape": list(array.shape), "part": part}


def read_array(entry: Any, payloads: Sequence[Any], *, most: int = 64 * _MIB) -> np.ndarray:
    """Return the array of a header entry: read-only, a view of the payload.

    Args:
        entry: ``{"dtype", "shape", "part"}``.
        payloads: of the same message.
        most: bytes that it may have.

    Raises:
        BridgeError: another type, a shape that the payload does not have, no such payload.
    """
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "part"}:
        raise BridgeError("an array must be described by dtype, shape and part", _short(entry))
    kind, shape, part = entry["dtype"], entry["shape"], entry["part"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise BridgeError(f"an array's dtype must be one of {', '.join(_DTYPES)}", _short(kind))
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(size, 2**31) for size in shape):
        raise BridgeError("an array's shape must be at most 8 sizes", _short(shape))
    if not _is_count(part, len(payloads) - 1):
        raise BridgeError(f"an array's part must be one of the {len(payloads)} payloads", _short(part))
    dtype, payload = np.dtype(_DTYPES[kind]), payloads[part]
    wanted, given = dtype.itemsize * math.prod(shape), memoryview(payload).nbytes
    if wanted != given or wanted > most:
        raise BridgeError(f"an array {kind} {shape} must have {wanted} bytes, at most {most}", given)
    array = np.frombuffer(payload, dtype).reshape(shape)
    array.flags.writeable = False
    return array


def error_body(error: BridgeError) -> dict[str, Any]:
    """Return an error as a reply's entry."""
    return {
        "code": error.code,
        "rule": error.rule,
        "value": "" if error.value is None else str(error.value)[:500],
        "remedy": error.remedy,
        "retry_after_ms": error.retry_after_ms,
    }


def parse_error(body: Any) -> BridgeError:
    """Read the error of a reply; a malformed one becomes ``INTERNAL``."""
    if not isinstance(body, dict):
        return BridgeError("a reply that is not ok must say why", _short(body), code=Code.INTERNAL)
    wait = body.get("retry_after_ms")
    return BridgeError(
        str(body.get("rule", "")),
        body.get("value") or None,
        str(body.get("remedy", "")),
        code=str(body.get("code", Code.INTERNAL)),
        retry_after_ms=float(wait) if isinstance(wait, int | float) else None,
    )


def control_address(address: str) -> str:
    """Return the control address of a server at ``address``: ".control" appended, or the port + 1.

    Raises:
        BridgeError: neither ``ipc://path`` nor ``tcp://host:port``.
    """
    kind, _, rest = address.partition("://")
    if kind == "ipc" and rest:
        return f"{address}.control"
    host, _, port = rest.rpartition(":")
    if kind != "tcp" or not host or not port.isdecimal() or not 0 < int(port) < 65535:
        rule, remedy = "an address must be ipc://PATH or tcp://HOST:PORT", "for example tcp://127.0.0.1:5757"
        raise BridgeError(rule, address, remedy)
    return f"tcp://{host}:{int(port) + 1}"


def is_local(address: str) -> bool:
    """Return True for an address of this machine only: a file, or ``tcp://`` on loopback.

    An abstract ``ipc://@NAME`` is none: it has no file whose mode keeps other users out.
    """
    kind, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    loopback = host in ("localhost", "::1") or (host.startswith("127.") and host.count(".") == 3)
    return (kind == "ipc" and not rest.startswith("@")) or (kind == "tcp" and loopback)


def _wrong_magic(magic: bytes) -> BridgeError:
    if len(magic) == len(MAGIC) and magic[:4] == MAGIC[:4]:
        rule = "the protocol versions of client and server must be the same"
        return BridgeError(rule, VERSION, f"speak version {VERSION}, not {magic[4]}", code=Code.VERSION)
    return BridgeError("a message must begin with WSIM and the protocol version", magic.hex())


def _check_size(what: str, size: int, most: int, code: str = Code.BAD_REQUEST) -> None:
    if size > most:
        raise BridgeError(f"{what} may have {most} bytes", size, "send less at once", code=code)


def _read_header(raw: Any) -> dict[str, Any]:
    size = len(raw)
    try:
        header = msgpack.unpackb(
            raw,
            raw=False,
            use_list=True,
            strict_map_key=True,
            ext_hook=_refuse_extension,
            max_str_len=size,
            max_bin_len=0,
            max_array_len=4096,
            max_map_len=1024,
            max_ext_len=0,
        )
    except BridgeError:
        raise
    except Exception as error:  # msgpack has many, and none may end the server
        raise BridgeError(
            "a header must be one msgpack map", f"{type(error).__name__}: {error}"[:200]
        ) from None
    if not isinstance(header, dict):
        raise BridgeError("a header must be one msgpack map", _short(header))
    _check_plain(header, _DEPTH)
    return header


def _refuse_extension(code: int, _: bytes) -> None:
    raise BridgeError("a header may hold no extension types", code)


def _check_plain(value: dict[str, Any] | list[Any], depth: int) -> None:
    """Check for plain values, nested at most ``depth`` deep."""
    if depth == 0:
        raise BridgeError(f"a header may be nested {_DEPTH} deep", "deeper")
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                raise BridgeError("a header's keys must be strings", _short(list(value)))
    for inner in value.values() if isinstance(value, dict) else value:
        kind = type(inner)
        if kind in _PLAIN:
            continue
        if kind is dict or kind is list:
            _check_plain(inner, depth - 1)
        elif kind is not float:
            raise BridgeError("a header must hold plain values", kind.__name__)
        elif not math.isfinite(inner):
            raise BridgeError("a header's numbers must be finite", inner)


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _short(value: Any) -> str:
    return repr(value)[:120]
