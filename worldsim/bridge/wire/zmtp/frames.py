"""ZMTP 3 frames: greeting, commands and message parts. RFC 23 and RFC 37."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = [
    "COMMAND",
    "GREETING",
    "LONG",
    "MORE",
    "DisconnectError",
    "Mechanism",
    "NullMechanism",
    "check_greeting",
    "command",
    "frame",
    "greeting",
    "message",
    "metadata",
    "read_metadata",
]

MORE, LONG, COMMAND = 1, 2, 4
GREETING = 64
"""Bytes."""
_COPY_LIMIT = 8192
"""Size up to which a part is copied next to its head, which is faster than sending two buffers."""
_CLIENT_SOCKET_TYPES = (b"DEALER", b"REQ", b"ROUTER")


class DisconnectError(Exception):
    """Protocol violation or end of a connection: it has to be closed."""


class Mechanism(Protocol):
    """Security mechanism of a connection."""

    name: str
    ready: bool
    """True after the handshake."""
    key: str
    """Authenticated key of the client, Z85; empty without authentication."""
    overhead: int
    """Largest overhead of a frame over its part, in bytes."""

    def answer(self, body: bytes) -> list[bytes]:
        """Frames to send back for a command of the handshake. DisconnectError where it must not go on."""

    def open(self, flags: int, body: Any) -> tuple[int, Any]:
        """Flags and content of a frame that came. DisconnectError where it is none."""

    def seal(self, flags: int, body: Any) -> list[Any]:
        """Bytes-like pieces of a frame to be sent."""


class NullMechanism:
    """NULL mechanism, for sockets that only their owner can reach."""

    name, key, overhead = "NULL", "", 0

    def __init__(self) -> None:
        self.ready = False

    def answer(self, body: bytes) -> list[bytes]:
        if body[:6] != b"\x05READY":
            raise DisconnectError("no READY")
        check_socket_type(read_metadata(body[6:]))
        self.ready = True
        return [frame(COMMAND, command("READY", metadata()))]

    def open(self, flags: int, body: Any) -> tuple[int, Any]:
        return flags, body

    def seal(self, flags: int, body: Any) -> list[Any]:
        return [head(flags, len(body)), body]


def greeting(mechanism: str) -> bytes:
    """Return the server's greeting."""
    server = mechanism != "NULL"
    name = mechanism.encode().ljust(20, b"\0")
    return b"\xff" + bytes(7) + b"\x01\x7f" + b"\x03\x01" + name + bytes([server]) + bytes(31)


def check_greeting(raw: bytes, mechanism: str) -> None:
    """Raise DisconnectError for another version or mechanism."""
    if raw[0] != 0xFF or not raw[9] & 1 or raw[10] < 3 or raw[12:32].rstrip(b"\0") != mechanism.encode():
        raise DisconnectError("another protocol")


def head(flags: int, size: int) -> bytes:
    """Return the head of a frame."""
    if size < 256:
        return bytes((flags, size))
    return bytes((flags | LONG,)) + size.to_bytes(8, "big")


def frame(flags: int, body: bytes) -> bytes:
    """Return a whole frame."""
    return head(flags, len(body)) + body


def command(name: str, data: bytes) -> bytes:
    """Return the content of a command frame."""
    return bytes([len(name)]) + name.encode() + data


def message(mechanism: Mechanism, parts: Sequence[Any]) -> list[Any]:
    """Return the buffers of a message to be sent; small ones are joined."""
    pieces: list[Any] = []
    small = bytearray()
    last = len(parts) - 1
    for number, part in enumerate(parts):
        view = memoryview(part).cast("B")
        for piece in mechanism.seal(MORE if number < last else 0, view):
            if len(piece) <= _COPY_LIMIT:
                small += piece
            else:
                pieces += [small, piece]
                small = bytearray()
    return [*pieces, small] if small else pieces


def metadata(**values: str) -> bytes:
    """Return the server's socket properties."""
    rows = {"Socket-Type": "ROUTER", **values}
    return b"".join(
        bytes([len(name)]) + name.encode() + len(value).to_bytes(4, "big") + value.encode()
        for name, value in rows.items()
    )


def read_metadata(raw: bytes) -> dict[str, bytes]:
    """Properties of a client's socket, names in lower case. DisconnectError where they are malformed."""
    found, at = {}, 0
    while at < len(raw):
        end = at + 1 + raw[at]
        size = int.from_bytes(raw[end : end + 4], "big")
        if end + 4 + size > len(raw):
            raise DisconnectError("malformed properties")
        found[raw[at + 1 : end].decode("ascii", "replace").lower()] = raw[end + 4 : end + 4 + size]
        at = end + 4 + size
    return found


def check_socket_type(properties: Mapping[str, bytes]) -> None:
    """Raise DisconnectError for a socket type that cannot talk to a ROUTER."""
    if properties.get("socket-type") not in _CLIENT_SOCKET_TYPES:
        raise DisconnectError("another kind of socket")
