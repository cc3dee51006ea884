"""One client's connection: what has come of messages, and what waits to be sent."""

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
"""Bytes that are read at once, and that an unfinished message may have before it is charged for."""
_MAX_COMMAND = 2048
"""Bytes of a command."""
_MAX_UNSENT = 2**20
"""Bytes that wait to be sent, beyond which nothing more is read: who does not read is not listened to."""
_MAX_PIECES = 64
"""That are sent in one go: fewer than any system takes."""
_MIN_BYTES_PER_SECOND = 256 * 1024
"""Bytes a second in which an unfinished message must come in after its first seconds."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one message may have."""

    part: int
    """Bytes of each part."""
    total: int
    """Bytes of all."""
    kept: int
    """Parts; those that follow are dropped as they come, and counted as one more."""
    parts: int = 64
    """Parts after which the connection is cut."""
    replies: int = 16 * 2**20
    """Bytes of replies that wait, but for one that is larger by itself."""
    begin: float = 10.0
    """Seconds that a handshake, or the first bytes of a message that was begun, may take."""


@dataclass(frozen=True, slots=True)
class AssembledMessage:
    """A message that has come."""

    parts: list[Any]
    """Bytes-like each; one more than are kept where it had more still."""
    reservation: Reservation
    """To be kept for as long as the parts are."""


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
        """What has come and is not looked at yet."""
        self._position = 0
        self._large_frame: tuple[int, memoryview, int] | None = None
        """A frame that comes straight to where it stays: flags, room, bytes so far."""
        self._parts: list[Any] = []
        self._part_count = self._message_size = 0
        self._reservation = budget.open_reservation(self._owner)
        self.started_at = now
        """When the handshake or the unfinished message began."""
        self.last_message_at = now
        """When the last whole message came."""
        self.starved = False
        """Whether the budget has no room for what comes next."""
        self.unsent = 0
        """Bytes that wait to be sent."""
        self._outbox: deque[memoryview] = deque()
        self.event_mask = self.counted_unsent = 0
        """What its socket is watched for, and how much of ``unsent`` its server has counted."""
        self.pending = self.asked = False
        """Whether it may have a message, and whether any has come."""
        self.closed = False
        self._queue_pieces([greeting(mechanism.name)])

    @property
    def ready(self) -> bool:
        """Whether the handshake is over."""
        return self._mechanism.ready

    @property
    def key(self) -> str:
        """The authenticated key of the client, Z85; empty without authentication."""
        return self._mechanism.key

    @property
    def held(self) -> int:
        """Bytes of an unfinished message that are charged."""
        return self._reservation.size

    @property
    def paused(self) -> bool:
        """Whether nothing more is read for now."""
        return self.starved or self.unsent > _MAX_UNSENT

    def timed_out(self, now: float) -> bool:
        """Whether a handshake or a message takes too long to be finished."""
        idle = self.ready and not (self._part_count or self._large_frame)
        if idle or (self.starved and not self._reservation.size):
            return False
        return now > self.started_at + self._limits.begin + self._reservation.size / _MIN_BYTES_PER_SECOND

    def read(self) -> None:
        """Take in what the socket has, no more than one piece. DisconnectError where it has ended."""
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

    def take(self, now: float) -> AssembledMessage | None:
        """The next message, or None: it is not whole yet.

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
        """Have a message sent by the next ``flush``; False where too much waits already."""
        if not self._mechanism.ready:
            return False
        pieces = message(self._mechanism, parts)
        size = sum(len(piece) for piece in pieces)
        if self.unsent and self.unsent + size > self._limits.replies:
            return False
        self._queue_pieces(pieces)
        return True

    def flush(self) -> None:
        """Send what there is room for. DisconnectError where the connection has ended."""
        try:
            while self._outbox:
                pieces = [self._outbox[at] for at in range(min(len(self._outbox), _MAX_PIECES))]
                self._sent(self.sock.sendmsg(pieces))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise DisconnectError(str(error)) from error

    def close(self) -> None:
        """Hang up; what waits is dropped."""
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
        """Whether the client's greeting has come."""
        if len(self._buffer) < GREETING:
            if self._buffer and self._buffer[0] != 0xFF:
                raise DisconnectError("another protocol")
            return False
        check_greeting(bytes(self._buffer[:GREETING]), self._mechanism.name)
        self._position, self._greeting_read = GREETING, True
        return True

    def _next_frame(self, now: float) -> tuple[int, Any] | None:
        """Flags and content of the next frame."""
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
        """A large frame: the rest of it is read to where it stays."""
        room = memoryview(bytearray(size))
        have = self._buffer[at : at + size]
        room[: len(have)] = have
        self._large_frame = flags, room, len(have)
        self._position = at + len(have)
        self._drop_parsed()

    def _check_frame(self, flags: int, size: int) -> None:
        """Refuse a frame before its content is there."""
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
        """Charge for a frame that makes a message one of more than a piece."""
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
        """A command of a connection that is ready: a PING is answered, others are passed over."""
        if body[:5] == b"\x04PING":
            context = body[7:23]
            self._queue_pieces(self._mechanism.seal(COMMAND, command("PONG", context)))

    def _drop_parsed(self) -> None:
        """Forget what has been looked at."""
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
