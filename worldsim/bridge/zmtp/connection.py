"""One client's connection: what has come of messages, and what waits to be sent."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worldsim.bridge.zmtp.frames import (
    COMMAND,
    GREETING,
    LONG,
    MORE,
    CutError,
    Mechanism,
    check_greeting,
    command,
    greeting,
    message,
)
from worldsim.bridge.zmtp.pool import Charge, Pool

__all__ = ["Bounds", "Connection", "CutError", "Whole"]

_READ = 16 * 1024
"""Bytes that are read at once, and that an unfinished message may have before it is charged for."""
_HANDSHAKE = 2048
"""Bytes of a command."""
_UNREAD = 2**20
"""Bytes that wait to be sent, beyond which nothing more is read: who does not read is not listened to."""
_PIECES = 64
"""That are sent in one go: fewer than any system takes."""
_SLOWEST = 256 * 1024
"""Bytes a second in which an unfinished message must come in after its first seconds."""


@dataclass(frozen=True, slots=True)
class Bounds:
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
class Whole:
    """A message that has come."""

    parts: list[Any]
    """Bytes-like each; one more than are kept where it had more still."""
    charge: Charge
    """To be kept for as long as the parts are."""


class Connection:
    """Used by one thread.

    Args:
        sock: accepted, non-blocking.
        number: of this connection; no other one of the process has it.
        control: whether it came to the control socket.
        mechanism: of its own.
        pool: that large messages are charged to.
        bounds: of a message.
        now: on the monotonic clock, in seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        control: bool,
        mechanism: Mechanism,
        pool: Pool,
        bounds: Bounds,
        now: float,
    ) -> None:
        self.sock, self.control = sock, control
        self.identity = number.to_bytes(8, "big")
        self._mechanism, self._pool, self._bounds = mechanism, pool, bounds
        self._greeted = False
        self._raw = bytearray()
        """What has come and is not looked at yet."""
        self._at = 0
        self._large: tuple[int, memoryview, int] | None = None
        """A frame that comes straight to where it stays: flags, room, bytes so far."""
        self._parts: list[Any] = []
        self._count = self._size = 0
        self._charge = pool.charge(self._owner)
        self.begun = now
        """When the handshake or the unfinished message began."""
        self.heard = now
        """When the last whole message came."""
        self.starved = False
        """Whether the pool has no room for what comes next."""
        self.unsent = 0
        """Bytes that wait to be sent."""
        self._out: deque[memoryview] = deque()
        self.mask = self.counted = 0
        """What its socket is watched for, and how much of ``unsent`` its server has counted."""
        self.pending = self.asked = False
        """Whether it may have a message, and whether any has come."""
        self.closed = False
        self._put([greeting(mechanism.name)])

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
        return self._charge.size

    @property
    def deaf(self) -> bool:
        """Whether nothing more is read for now."""
        return self.starved or self.unsent > _UNREAD

    def overdue(self, now: float) -> bool:
        """Whether a handshake or a message takes too long to be finished."""
        idle = self.ready and not (self._count or self._large)
        if idle or (self.starved and not self._charge.size):
            return False
        return now > self.begun + self._bounds.begin + self._charge.size / _SLOWEST

    def read(self) -> None:
        """Take in what the socket has, no more than one piece. CutError where it has ended."""
        try:
            if self._large is not None:
                flags, place, filled = self._large
                count = self.sock.recv_into(place[filled:])
                self._large = flags, place, filled + count
            elif (room := _READ - len(self._raw) + self._at) <= 0:
                return
            else:
                data = self.sock.recv(room)
                count = len(data)
                self._raw += data
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise CutError(str(error)) from error
        if not count:
            raise CutError("the client has gone")

    def take(self, now: float) -> Whole | None:
        """The next message, or None: it is not whole yet.

        Raises:
            CutError: it is none, or larger than one may be.
        """
        if not self._greeted and not self._greet():
            return None
        while (got := self._frame(now)) is not None:
            flags, body = got
            if not self._mechanism.ready:
                self._shake(flags, body)
                continue
            flags, body = self._mechanism.open(flags, body)
            if flags & COMMAND:
                self._obey(bytes(body))
            elif (whole := self._add(flags, body)) is not None:
                self.heard, self.asked = now, True
                return whole
        self._tidy()
        return None

    def send(self, parts: Sequence[Any]) -> bool:
        """Have a message sent by the next ``flush``; False where too much waits already."""
        if not self._mechanism.ready:
            return False
        pieces = message(self._mechanism, parts)
        size = sum(len(piece) for piece in pieces)
        if self.unsent and self.unsent + size > self._bounds.replies:
            return False
        self._put(pieces)
        return True

    def flush(self) -> None:
        """Send what there is room for. CutError where the connection has ended."""
        try:
            while self._out:
                pieces = [self._out[at] for at in range(min(len(self._out), _PIECES))]
                self._sent(self.sock.sendmsg(pieces))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise CutError(str(error)) from error

    def close(self) -> None:
        """Hang up; what waits is dropped."""
        self.closed = True
        self._out.clear()
        self._raw.clear()
        self._parts, self._large, self.unsent = [], None, 0
        self._charge = self._pool.charge(self._owner)
        self.sock.close()

    @property
    def _owner(self) -> str:
        return self._mechanism.key or self.identity.hex()

    def _put(self, pieces: Sequence[Any]) -> None:
        for piece in pieces:
            self.unsent += len(piece)
            self._out.append(memoryview(piece))

    def _sent(self, count: int) -> None:
        self.unsent -= count
        while count:
            first = self._out[0]
            if len(first) > count:
                self._out[0] = first[count:]
                return
            count -= len(first)
            self._out.popleft()

    def _greet(self) -> bool:
        """Whether the client's greeting has come."""
        if len(self._raw) < GREETING:
            if self._raw and self._raw[0] != 0xFF:
                raise CutError("another protocol")
            return False
        check_greeting(bytes(self._raw[:GREETING]), self._mechanism.name)
        self._at, self._greeted = GREETING, True
        return True

    def _frame(self, now: float) -> tuple[int, Any] | None:
        """Flags and content of the next frame."""
        if self._large is not None:
            flags, room, filled = self._large
            if filled < len(room):
                return None
            self._large = None
            return flags, room
        raw, at = self._raw, self._at
        left = len(raw) - at
        if left < 2:
            return None
        flags, size, head = raw[at], raw[at + 1], 2
        if flags & LONG:
            if left < 9:
                return None
            size, head = int.from_bytes(raw[at + 1 : at + 9], "big"), 9
        if not self._size and not self._count:
            self.begun = now if self.ready else self.begun
        self._check(flags, size)
        end = at + head + size
        if head + size <= _READ // 2:
            if left < head + size:
                return None
            if not self._pay(size):
                return None
            self._at = end
            return flags & ~LONG, bytes(raw[at + head : end])
        if not self._pay(size):
            return None
        self._begin(flags & ~LONG, size, at + head)
        return self._frame(now)

    def _begin(self, flags: int, size: int, at: int) -> None:
        """A large frame: the rest of it is read to where it stays."""
        room = memoryview(bytearray(size))
        have = self._raw[at : at + size]
        room[: len(have)] = have
        self._large = flags, room, len(have)
        self._at = at + len(have)
        self._tidy()

    def _check(self, flags: int, size: int) -> None:
        """Refuse a frame before its content is there."""
        if flags & ~(MORE | LONG | COMMAND):
            raise CutError("no frame")
        if not self.ready or flags & COMMAND:
            if size > _HANDSHAKE:
                raise CutError("too long a command")
            return
        overhead = self._mechanism.overhead
        if size > self._bounds.part + overhead or self._size + size > self._bounds.total + overhead:
            raise CutError("too large a message")

    def _pay(self, size: int) -> bool:
        """Charge for a frame that makes a message one of more than a piece."""
        if self._size + size <= _READ:
            return True
        self.starved = not self._charge.grow(size)
        return not self.starved

    def _add(self, flags: int, body: Any) -> Whole | None:
        self._count += 1
        self._size += len(body)
        if self._count > self._bounds.parts:
            raise CutError("too many parts")
        if self._count <= self._bounds.kept + 1:
            self._parts.append(body if self._count <= self._bounds.kept else b"")
        if flags & MORE:
            return None
        whole = Whole(self._parts, self._charge)
        self._parts, self._count, self._size = [], 0, 0
        self._charge = self._pool.charge(self._owner)
        return whole

    def _shake(self, flags: int, body: bytes) -> None:
        if not flags & COMMAND:
            raise CutError("no handshake")
        self._put(self._mechanism.answer(body))
        self._charge = self._pool.charge(self._owner)

    def _obey(self, body: bytes) -> None:
        """A command of a connection that is ready: a PING is answered, others are passed over."""
        if body[:5] == b"\x04PING":
            context = body[7:23]
            self._put(self._mechanism.seal(COMMAND, command("PONG", context)))

    def _tidy(self) -> None:
        """Forget what has been looked at."""
        if self._at:
            del self._raw[: self._at]
            self._at = 0
