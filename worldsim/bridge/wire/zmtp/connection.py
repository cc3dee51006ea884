"""Connection of one client: partly received messages and queued replies."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worldsim.bridge.wire.zmtp.frames import (
    COMMAND,
    GREETING,
    LONG,
    MORE,
    DisconnectError,
    Mechanism,
    check_greeting,
    command,
    greeting,
    message,
)
from worldsim.bridge.wire.zmtp.memory_budget import MemoryBudget, Reservation

__all__ = ["AssembledMessage", "Connection", "ConnectionLimits", "DisconnectError"]

_READ_SIZE = 16 * 1024
"""Bytes per read, and bytes of an unfinished message without a reservation."""
_MAX_COMMAND = 2048
"""Size limit of a command in bytes."""
_MAX_UNSENT = 2**20
"""Unsent bytes beyond which reading from the client is paused."""
_MAX_PIECES = 64
"""Buffers per ``sendmsg``, fewer than any system's limit."""
_MIN_BYTES_PER_SECOND = 256 * 1024
"""Slowest rate of an unfinished message after its first seconds."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of a connection's messages."""

    part: int
    """Bytes of each part."""
    total: int
    """Bytes of all."""
    kept: int
    """Parts kept; further ones are dropped, and count as one more."""
    parts: int = 64
    """Parts after which the connection is closed."""
    replies: int = 16 * 2**20
    """Bytes of queued replies, unless a single one is larger."""
    begin: float = 10.0
    """Seconds allowed for a handshake, or for the start of a message."""


@dataclass(frozen=True, slots=True)
class AssembledMessage:
    """Completely received message."""

    parts: list[Any]
    """Bytes-like parts; one more than are kept if there were more."""
    reservation: Reservation
    """Memory of the parts, released with them."""


class Connection:
    """Used by one thread.

    Args:
        sock: accepted, non-blocking.
        number: of this connection; no other one of the process has it.
        control: whether it came to the control socket.
        mechanism: of its own.
        budget: that large messages are charged to.
        limits: of a message.
        now: on the monotonic clock, in seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        control: bool,
        mechanism: Mechanism,
        budget: MemoryBudget,
        limits: ConnectionLimits,
        now: float,
    ) -> None:
        self.sock, self.control = sock, control
        self.identity = number.to_bytes(8, "big")
        self._mechanism, self._budget, self._limits = mechanism, budget, limits
        self._greeting_read = False
        self._buffer = bytearray()
        """Received bytes, not parsed yet."""
        self._position = 0
        self._large_frame: tuple[int, memoryview, int] | None = None
        """Large frame being received in place: flags, buffer, bytes so far."""
        self._parts: list[Any] = []
        self._part_count = self._message_size = 0
        self._reservation = budget.open_reservation(self._owner)
        self.started_at = now
        """Start of the handshake or of the unfinished message."""
        self.last_message_at = now
        """Time of the last complete message."""
        self.starved = False
        """True if the budget has no room for the next frame."""
        self.unsent = 0
        """Queued bytes."""
        self._outbox: deque[memoryview] = deque()
        self.event_mask = self.counted_unsent = 0
        """Selector events, and the part of ``unsent`` that the server has counted."""
        self.pending = self.asked = False
        """True if queued for reading; true once a message has arrived."""
        self.closed = False
        self._queue_pieces([greeting(mechanism.name)])

    @property
    def ready(self) -> bool:
        """True after the handshake."""
        return self._mechanism.ready

    @property
    def key(self) -> str:
        """The authenticated key of the client, Z85; empty without authentication."""
        return self._mechanism.key

    @property
    def held(self) -> int:
        """Reserved bytes of an unfinished message."""
        return self._reservation.size

    @property
    def paused(self) -> bool:
        """True while nothing is read."""
        return self.starved or self.unsent > _MAX_UNSENT

    def timed_out(self, now: float) -> bool:
        """Return True if a handshake or a message takes too long."""
        idle = self.ready and not (self._part_count or self._large_frame)
        if idle or (self.starved and not self._reservation.size):
            return False
        return now > self.started_at + self._limits.begin + self._reservation.size / _MIN_BYTES_PER_SECOND

    def read(self) -> None:
        """Read once from the socket. DisconnectError if it was closed."""
        try:
            if self._large_frame is not None:
                flags, place, filled = self._large_frame
                count = self.sock.recv_into(place[filled:])
                self._large_frame = flags, place, filled + count
            elif (room := _READ_SIZE - len(self._buffer) + self._position) <= 0:
                return
            else:
                data = self.sock.recv(room)
                count = len(data)
                self._buffer += data
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise DisconnectError(str(error)) from error
        if not count:
            raise DisconnectError("the client has gone")

    def next_message(self, now: float) -> AssembledMessage | None:
        """Return the next complete message, or None.

        Raises:
            DisconnectError: it is none, or larger than one may be.
        """
        if not self._greeting_read and not self._read_greeting():
            return None
        while (got := self._next_frame(now)) is not None:
            flags, body = got
            if not self._mechanism.ready:
                self._handshake(flags, body)
                continue
            flags, body = self._mechanism.open(flags, body)
            if flags & COMMAND:
                self._handle_command(bytes(body))
            elif (whole := self._add_part(flags, body)) is not None:
                self.last_message_at, self.asked = now, True
                return whole
        self._drop_parsed()
        return None

    def send(self, parts: Sequence[Any]) -> bool:
        """Queue a message for ``flush``; return False beyond the reply limit."""
        if not self._mechanism.ready:
            return False
        pieces = message(self._mechanism, parts)
        size = sum(len(piece) for piece in pieces)
        if self.unsent and self.unsent + size > self._limits.replies:
            return False
        self._queue_pieces(pieces)
        return True

    def flush(self) -> None:
        """Send queued bytes as far as possible. DisconnectError if the connection was closed."""
        try:
            while self._outbox:
                pieces = [self._outbox[at] for at in range(min(len(self._outbox), _MAX_PIECES))]
                self._sent(self.sock.sendmsg(pieces))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise DisconnectError(str(error)) from error

    def close(self) -> None:
        """Close the connection and drop queued data."""
        self.closed = True
        self._outbox.clear()
        self._buffer.clear()
        self._parts, self._large_frame, self.unsent = [], None, 0
        self._reservation = self._budget.open_reservation(self._owner)
        self.sock.close()

    @property
    def _owner(self) -> str:
        return self._mechanism.key or self.identity.hex()

    def _queue_pieces(self, pieces: Sequence[Any]) -> None:
        for piece in pieces:
            self.unsent += len(piece)
            self._outbox.append(memoryview(piece))

    def _sent(self, count: int) -> None:
        self.unsent -= count
        while count:
            first = self._outbox[0]
            if len(first) > count:
                self._outbox[0] = first[count:]
                return
            count -= len(first)
            self._outbox.popleft()

    def _read_greeting(self) -> bool:
        """Read the client's greeting; return False if it is incomplete."""
        if len(self._buffer) < GREETING:
            if self._buffer and self._buffer[0] != 0xFF:
                raise DisconnectError("another protocol")
            return False
        check_greeting(bytes(self._buffer[:GREETING]), self._mechanism.name)
        self._position, self._greeting_read = GREETING, True
        return True

    def _next_frame(self, now: float) -> tuple[int, Any] | None:
        """Return flags and content of the next frame, or None."""
        if self._large_frame is not None:
            flags, room, filled = self._large_frame
            if filled < len(room):
                return None
            self._large_frame = None
            return flags, room
        raw, at = self._buffer, self._position
        left = len(raw) - at
        if left < 2:
            return None
        flags, size, head = raw[at], raw[at + 1], 2
        if flags & LONG:
            if left < 9:
                return None
            size, head = int.from_bytes(raw[at + 1 : at + 9], "big"), 9
        if not self._message_size and not self._part_count:
            self.started_at = now if self.ready else self.started_at
        self._check_frame(flags, size)
        end = at + head + size
        if head + size <= _READ_SIZE // 2:
            if left < head + size:
                return None
            if not self._reserve(size):
                return None
            self._position = end
            return flags & ~LONG, bytes(raw[at + head : end])
        if not self._reserve(size):
            return None
        self._start_large_frame(flags & ~LONG, size, at + head)
        return self._next_frame(now)

    def _start_large_frame(self, flags: int, size: int, at: int) -> None:
        """Begin to receive a large frame in place."""
        room = memoryview(bytearray(size))
        have = self._buffer[at : at + size]
        room[: len(have)] = have
        self._large_frame = flags, room, len(have)
        self._position = at + len(have)
        self._drop_parsed()

    def _check_frame(self, flags: int, size: int) -> None:
        """Check the size of a frame before its content arrives."""
        if flags & ~(MORE | LONG | COMMAND):
            raise DisconnectError("no frame")
        if not self.ready or flags & COMMAND:
            if size > _MAX_COMMAND:
                raise DisconnectError("too long a command")
            return
        overhead = self._mechanism.overhead
        if size > self._limits.part + overhead or self._message_size + size > self._limits.total + overhead:
            raise DisconnectError("too large a message")

    def _reserve(self, size: int) -> bool:
        """Reserve memory for a frame of a message larger than one read."""
        if self._message_size + size <= _READ_SIZE:
            return True
        self.starved = not self._reservation.grow(size)
        return not self.starved

    def _add_part(self, flags: int, body: Any) -> AssembledMessage | None:
        self._part_count += 1
        self._message_size += len(body)
        if self._part_count > self._limits.parts:
            raise DisconnectError("too many parts")
        if self._part_count <= self._limits.kept + 1:
            self._parts.append(body if self._part_count <= self._limits.kept else b"")
        if flags & MORE:
            return None
        whole = AssembledMessage(self._parts, self._reservation)
        self._parts, self._part_count, self._message_size = [], 0, 0
        self._reservation = self._budget.open_reservation(self._owner)
        return whole

    def _handshake(self, flags: int, body: bytes) -> None:
        if not flags & COMMAND:
            raise DisconnectError("no handshake")
        self._queue_pieces(self._mechanism.answer(body))
        self._reservation = self._budget.open_reservation(self._owner)

    def _handle_command(self, body: bytes) -> None:
        """Answer a PING; ignore other commands."""
        if body[:5] == b"\x04PING":
            context = body[7:23]
            self._queue_pieces(self._mechanism.seal(COMMAND, command("PONG", context)))

    def _drop_parsed(self) -> None:
        """Drop parsed bytes from the buffer."""
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
