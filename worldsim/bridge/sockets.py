"""The two sockets of a server: what clients see is a pair of ZeroMQ's ROUTERs. Used by one thread."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import selectors
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from worldsim.bridge.keys import Guests, ServerKeys
from worldsim.bridge.protocol import REQUEST, control_address, is_local
from worldsim.bridge.zmtp import Charge, Connection, CutError, Listener, Pool
from worldsim.bridge.zmtp.connection import Bounds
from worldsim.bridge.zmtp.curve import Curve
from worldsim.bridge.zmtp.frames import Mechanism, Null
from worldsim.errors import BridgeError

__all__ = ["Incoming", "Sockets"]

_MIB = 2**20
_BOUNDS = Bounds(
    part=REQUEST.payload, total=REQUEST.header + REQUEST.payloads * REQUEST.payload, kept=2 + REQUEST.payloads
)
_REQUESTS = 192 * _MIB
"""Bytes of requests that are coming in or not answered yet."""
_REPLIES = 128 * _MIB
"""Bytes of replies that clients have not read yet."""
_WITHOUT = 2**62
"""Bytes: no bound."""
_CONNECTIONS = 4096
_RESERVED = 48
"""Descriptors that are kept for everything else."""
_STRANGERS = 64
"""Connections whose handshake is not over; the oldest goes when one more comes."""
_SILENT = (5.0, 60.0)
"""Seconds after which a connection that has asked nothing, and one that has, may go to make room."""
_SLOW = 1.0
"""Seconds after which an unfinished message goes where there is no room for others."""
_AT_ONCE = 32
"""Connections that are accepted in one turn."""
_TICK = 0.1
"""Seconds between two looks for connections that take too long."""
_STARVED = 0.01
"""Seconds after which it is looked again for room for a message."""
_TRIES = 20
_LINGER = 1.0
"""Seconds that what is sent just before the end may take to leave."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came."""

    control: bool
    identity: bytes
    key: str
    parts: list[Any]
    """Bytes-like each. One more than a message may have where it had more still."""
    charge: Charge
    """To be kept for as long as the message's bytes are."""


class Sockets:
    """Bound and listening.

    Args:
        address: of the data socket, ``ipc://PATH`` or ``tcp://HOST:PORT``; the port may be ``*``.
        keys: folder of keys; needed for any address that others than this process's user can reach.
        requests: bytes of requests in all; one client may have 3/8 of them.
        front: whether a front asks, which bounds its clients itself: to it no reply is dropped.

    Raises:
        BridgeError: an address that is malformed, taken, or needs keys.
    """

    def __init__(
        self, address: str, keys: Path | None = None, *, requests: int = _REQUESTS, front: bool = False
    ) -> None:
        if keys is None and not is_local(address):
            rule, remedy = "an address that others can reach needs keys", "give --keys DIR"
            raise BridgeError(rule, address, f"{remedy}; `worldsim keys new NAME --dir DIR` makes them")
        self._secret = None if keys is None else z85.decode(ServerKeys.read(keys).secret)
        self._guests = None if keys is None else Guests(keys)
        self._data, self._control = _bind(address, own=keys is None)
        self.address = self._data.address
        self.pool = Pool(requests, requests if front else requests * 3 // 8)
        """Bytes of requests."""
        self._bounds = replace(_BOUNDS, replies=_WITHOUT) if front else _BOUNDS
        self._replies = _WITHOUT if front else _REPLIES
        self._selector = selectors.DefaultSelector()
        for listener in (self._data, self._control):
            self._selector.register(listener.sock, selectors.EVENT_READ, listener)
        self._numbers = itertools.count(1)
        self._connections: dict[bytes, Connection] = {}
        self._strangers: dict[bytes, Connection] = {}
        """Those whose handshake is not over, the oldest first."""
        self._keys: dict[str, int] = {}
        """How many connections each key has."""
        self._most = _room()
        self._pending: dict[bool, deque[Connection]] = {True: deque(), False: deque()}
        """Connections that may have a message, of the control socket or not."""
        self._starved: list[Connection] = []
        self._unflushed: dict[bytes, Connection] = {}
        """Those that something was sent to since the last ``flush``."""
        self.unsent = 0
        """Bytes that clients have not read yet."""
        self._look = 0.0
        self._others = zmq.Poller()
        self._others.register(self._selector.fileno(), zmq.POLLIN)
        self._foreign = 0
        """ZeroMQ's own sockets that are watched."""
        self._ready: set[Any] = set()

    def __len__(self) -> int:
        """Connections."""
        return len(self._connections)

    def watch(self, other: int | zmq.Socket[bytes]) -> None:
        """Let ``poll`` return when a file or a socket of ZeroMQ's can be read, too."""
        if isinstance(other, int):
            self._selector.register(other, selectors.EVENT_READ, other)
        else:
            self._foreign += 1
            self._others.register(other, zmq.POLLIN)

    def forget(self, other: zmq.Socket[bytes]) -> None:
        """The opposite of ``watch``."""
        self._foreign -= 1
        self._others.unregister(other)

    def poll(self, seconds: float) -> None:
        """Wait until something has come, or for so long."""
        self.flush()
        if any(self._pending.values()):
            seconds = 0.0
        if self._starved:
            seconds = min(seconds, _STARVED)
        self._ready.clear()
        if self._foreign:
            self._ready.update(one for one, _ in self._others.poll(round(seconds * 1000)))
            seconds = 0.0
        for entry, events in self._selector.select(seconds):
            self._meet(entry.data, events)
        now = time.monotonic()
        if now > self._look + _TICK:
            self._look = now
            self._look_around(now)
        self._feed()

    def ready(self, other: int | zmq.Socket[bytes]) -> bool:
        """Whether what is watched could be read at the last poll."""
        return other in self._ready

    def receive(self, *, control: bool) -> Incoming | None:
        """The next message, or None. Connections take turns."""
        pending = self._pending[control]
        now = time.monotonic()
        while pending:
            one = pending.popleft()
            one.pending = False
            whole = self._take(one, now)
            if whole is None:
                continue
            self._expect(one)
            return Incoming(control, one.identity, one.key, whole.parts, whole.charge)
        return None

    def send(self, identity: bytes, parts: list[Any], *, control: bool) -> bool:
        """Send to one connection, by the next ``flush`` or ``poll``; False if there is no room.

        To one that is gone there always is.
        """
        one = self._connections.get(identity)
        if one is None or one.control is not control:
            return True
        sent = one.send(parts)
        self._attend(one)
        return sent

    def flush(self) -> None:
        """Send what there is room for: what goes to one connection goes together."""
        while self._unflushed:
            one = self._unflushed.popitem()[1]
            if not one.closed:
                self._flush(one)
        while self.unsent > self._replies:
            self._cut(max(self._connections.values(), key=lambda other: other.unsent))

    def close(self) -> None:
        """Close all; what was sent leaves first, as far as that takes no longer than a second."""
        for listener in (self._data, self._control):
            self._selector.unregister(listener.sock)
        self.flush()
        end = time.monotonic() + _LINGER
        while self.unsent and (left := end - time.monotonic()) > 0:
            for entry, events in self._selector.select(left):
                if isinstance(entry.data, Connection) and events & selectors.EVENT_WRITE:
                    self._flush(entry.data)
        for one in list(self._connections.values()):
            self._cut(one)
        self._selector.close()
        for listener in (self._control, self._data):
            listener.close()

    def _meet(self, other: Any, events: int) -> None:
        """See to what is ready."""
        if isinstance(other, Connection):
            if events & selectors.EVENT_WRITE:
                self._flush(other)
            if events & selectors.EVENT_READ and not other.closed:
                self._read(other)
        elif isinstance(other, Listener):
            self._accept(other)
        else:
            self._ready.add(other)

    def _accept(self, listener: Listener) -> None:
        for _ in range(_AT_ONCE):
            sock = listener.accept()
            if sock is None:
                return
            now = time.monotonic()
            if len(self._connections) >= self._most and not self._make_room(now):
                sock.close()
                return
            if len(self._strangers) >= min(_STRANGERS, self._most // 2):
                self._cut(next(iter(self._strangers.values())))
            one = Connection(
                sock,
                next(self._numbers),
                listener is self._control,
                self._mechanism(),
                self.pool,
                self._bounds,
                now,
            )
            self._connections[one.identity] = self._strangers[one.identity] = one
            self._attend(one)

    def _mechanism(self) -> Mechanism:
        if self._secret is None or self._guests is None:
            return Null()
        return Curve(self._secret, self._guests.admit)

    def _make_room(self, now: float) -> bool:
        """Cut the connection that has been silent for longest, if it has been for long."""
        one = next(iter(self._strangers.values()), None)
        if one is None:
            one = min(self._connections.values(), key=lambda other: other.heard)
            if now - one.heard < _SILENT[one.asked]:
                return False
        self._cut(one)
        return True

    def _read(self, one: Connection) -> None:
        if one.pending:
            return  # what it sent before has to be looked at first
        try:
            one.read()
        except CutError:
            self._cut(one)
        else:
            self._expect(one)

    def _expect(self, one: Connection) -> None:
        """Look for a message of a connection in its turn."""
        if not one.pending:
            one.pending = True
            self._pending[one.control].append(one)

    def _take(self, one: Connection, now: float) -> Any:
        """Its next message, or None."""
        if one.closed:
            return None
        try:
            whole = None if one.unsent and one.deaf else one.take(now)
            if one.ready and one.identity in self._strangers:
                self._welcome(one)
        except CutError:
            self._cut(one)
            return None
        if one.starved:
            self._starved.append(one)
        self._attend(one)
        return whole

    def _welcome(self, one: Connection) -> None:
        """A handshake is over. CutError where its key has as many connections as one may have."""
        del self._strangers[one.identity]
        if one.key:
            self._keys[one.key] = self._keys.get(one.key, 0) + 1
            if self._keys[one.key] > self._most // 2:
                raise CutError("too many connections of one key")

    def _feed(self) -> None:
        """Try again for messages that there was no room for."""
        starved, self._starved = self._starved, []
        for one in starved:
            if not one.closed:
                one.starved = False
                self._expect(one)

    def _flush(self, one: Connection) -> None:
        deaf = one.deaf
        try:
            one.flush()
        except CutError:
            self._cut(one)
            return
        if deaf and not one.deaf:
            self._expect(one)
        self._attend(one, blocked=bool(one.unsent))

    def _attend(self, one: Connection, *, blocked: bool = False) -> None:
        """Watch a connection for what is to be done with it.

        Args:
            one: the connection.
            blocked: whether its socket takes no more of what waits to be sent.
        """
        if one.closed:
            return
        self.unsent += one.unsent - one.counted
        one.counted = one.unsent
        blocked = one.unsent > 0 and (blocked or bool(one.mask & selectors.EVENT_WRITE))
        if one.unsent and not blocked:
            self._unflushed[one.identity] = one
        mask = (0 if one.deaf else selectors.EVENT_READ) | (selectors.EVENT_WRITE if blocked else 0)
        if mask == one.mask:
            return
        if not one.mask:
            self._selector.register(one.sock, mask, one)
        elif not mask:
            self._selector.unregister(one.sock)
        else:
            self._selector.modify(one.sock, mask, one)
        one.mask = mask

    def _cut(self, one: Connection) -> None:
        del self._connections[one.identity]
        self._strangers.pop(one.identity, None)
        if one.key and one.key in self._keys:
            self._keys[one.key] -= 1
            if not self._keys[one.key]:
                del self._keys[one.key]
        if one.mask:
            self._selector.unregister(one.sock)
        self.unsent -= one.counted
        one.close()

    def _look_around(self, now: float) -> None:
        """Cut what takes too long, and where messages starve, the largest of those that are not finished."""
        for one in list(self._connections.values()):
            if one.overdue(now):
                self._cut(one)
        if self._starved and self.pool.used + _BOUNDS.total > self.pool.most:
            slow = [one for one in self._connections.values() if one.held and now - one.begun > _SLOW]
            if slow:
                self._cut(max(slow, key=lambda one: one.held))


def _room() -> int:
    """Connections for which there are descriptors."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):
        allowed -= len(os.listdir("/dev/fd"))
    return max(4, min(_CONNECTIONS, allowed - _RESERVED))


def _bind(address: str, *, own: bool) -> tuple[Listener, Listener]:
    """The data socket and the control socket. A port that is left open is tried again until the next one is
    free, too."""
    for left in reversed(range(_TRIES if address.endswith(":*") else 1)):
        data = Listener(address, own=own)
        try:
            return data, Listener(control_address(data.address), own=own)
        except BridgeError:
            data.close()
            if not left:
                raise
    raise AssertionError("the last try returns or raises")
