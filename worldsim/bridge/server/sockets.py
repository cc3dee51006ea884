"""Data and control socket of a server, which appear to clients as ZeroMQ ROUTERs. Used by one thread."""

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

from worldsim.bridge.auth.keys import AuthorizedKeys, ServerKeys
from worldsim.bridge.wire.protocol import REQUEST, is_local
from worldsim.bridge.wire.zmtp import (
    Connection,
    DisconnectError,
    Listener,
    MemoryBudget,
    Reservation,
    listen,
)
from worldsim.bridge.wire.zmtp.connection import ConnectionLimits
from worldsim.bridge.wire.zmtp.curve import CurveMechanism
from worldsim.bridge.wire.zmtp.frames import Mechanism, NullMechanism
from worldsim.errors import BridgeError

__all__ = ["ReceivedMessage", "Sockets"]

_MIB = 2**20
_CONNECTION_LIMITS = ConnectionLimits(
    part=REQUEST.payload, total=REQUEST.header + REQUEST.payloads * REQUEST.payload, kept=2 + REQUEST.payloads
)
_REQUEST_BYTES = 192 * _MIB
"""Byte budget of requests that arrive or wait."""
_REPLY_BYTES = 128 * _MIB
"""Byte budget of unread replies."""
_UNBOUNDED = 2**62
"""Byte limit that is never reached."""
_MAX_CONNECTIONS = 4096
_RESERVED_DESCRIPTORS = 48
"""File descriptors reserved for everything else."""
_MAX_HANDSHAKING = 64
"""Connections in their handshake; one more replaces the oldest."""
_IDLE_SECONDS = (5.0, 60.0)
"""Idle seconds after which a connection may be evicted: one without a request, one with."""
_SLOW_MESSAGE_SECONDS = 1.0
"""Seconds after which an unfinished message may be dropped in favour of others."""
_ACCEPTS_PER_TURN = 32
"""Connections accepted per turn."""
_MAINTENANCE_INTERVAL = 0.1
"""Seconds between two checks for timed-out connections."""
_STARVED_RETRY_SECONDS = 0.01
"""Seconds after which a message that found no memory is tried again."""
_LINGER_SECONDS = 1.0
"""Seconds in which pending replies are still sent on close."""


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """Received message."""

    control: bool
    identity: bytes
    key: str
    parts: list[Any]
    """Bytes-like parts; one more than allowed if there were more."""
    reservation: Reservation
    """Memory of the message's bytes, released with them."""


class Sockets:
    """Bound and listening.

    Args:
        address: of the data socket, ``ipc://PATH`` or ``tcp://HOST:PORT``; the port may be ``*``.
        keys: folder of keys; needed for any address that others than this process's user can reach.
        requests: bytes of requests in all; one client may have 3/8 of them.
        behind_router: whether a router asks, which bounds its clients itself: to it no reply is dropped.

    Raises:
        BridgeError: an address that is malformed, taken, or needs keys.
    """

    def __init__(
        self,
        address: str,
        keys: Path | None = None,
        *,
        requests: int = _REQUEST_BYTES,
        behind_router: bool = False,
    ) -> None:
        if keys is None and not is_local(address):
            rule, remedy = "an address that others can reach needs keys", "give --keys DIR"
            raise BridgeError(rule, address, f"{remedy}; `worldsim keys new NAME --dir DIR` makes them")
        self._secret = None if keys is None else z85.decode(ServerKeys.read(keys).secret)
        self._authorized_keys = None if keys is None else AuthorizedKeys(keys)
        self._data, self._control = listen(address, owner_only=keys is None)
        self.address = self._data.address
        self.budget = MemoryBudget(requests, requests if behind_router else requests * 3 // 8)
        """Byte budget of requests."""
        self._limits = (
            replace(_CONNECTION_LIMITS, replies=_UNBOUNDED) if behind_router else _CONNECTION_LIMITS
        )
        self._reply_limit = _UNBOUNDED if behind_router else _REPLY_BYTES
        self._selector = selectors.DefaultSelector()
        for listener in (self._data, self._control):
            self._selector.register(listener.sock, selectors.EVENT_READ, listener)
        self._ids = itertools.count(1)
        self._connections: dict[bytes, Connection] = {}
        self._handshaking: dict[bytes, Connection] = {}
        """Connections in their handshake, oldest first."""
        self._connections_by_key: dict[str, int] = {}
        """Number of connections per key."""
        self._connection_limit = _max_connections()
        self._pending: dict[bool, deque[Connection]] = {True: deque(), False: deque()}
        """Connections to read a message from, of the control socket or not."""
        self._starved: list[Connection] = []
        self._unflushed: dict[bytes, Connection] = {}
        """Connections with data to send."""
        self.unsent = 0
        """Bytes of unread replies."""
        self._last_maintenance = 0.0
        self._zmq_poller = zmq.Poller()
        self._zmq_poller.register(self._selector.fileno(), zmq.POLLIN)
        self._zmq_sockets = 0
        """Number of watched ZeroMQ sockets."""
        self._watched = zmq.Poller()
        """Watched objects alone, without the clients."""
        self._ready: set[Any] = set()

    def __len__(self) -> int:
        """Number of connections."""
        return len(self._connections)

    def watch(self, other: int | zmq.Socket[bytes]) -> None:
        """Make ``poll`` return also when a file descriptor or a ZeroMQ socket is readable."""
        self._watched.register(other, zmq.POLLIN)
        if isinstance(other, int):
            self._selector.register(other, selectors.EVENT_READ, other)
        else:
            self._zmq_sockets += 1
            self._zmq_poller.register(other, zmq.POLLIN)

    def forget(self, other: zmq.Socket[bytes]) -> None:
        """Undo ``watch``."""
        self._watched.unregister(other)
        self._zmq_sockets -= 1
        self._zmq_poller.unregister(other)

    def poll(self, seconds: float) -> None:
        """Wait for a message, or for so many seconds."""
        self.flush()
        if any(self._pending.values()):
            seconds = 0.0
        if self._starved:
            seconds = min(seconds, _STARVED_RETRY_SECONDS)
        self._ready.clear()
        if self._zmq_sockets:
            self._ready.update(connection for connection, _ in self._zmq_poller.poll(round(seconds * 1000)))
            seconds = 0.0
        for entry, events in self._selector.select(seconds):
            self._handle_event(entry.data, events)
        now = time.monotonic()
        if now > self._last_maintenance + _MAINTENANCE_INTERVAL:
            self._last_maintenance = now
            self._run_maintenance(now)
        self._retry_starved()

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds, at least a millisecond, or until a watched object is readable.

        Nothing is read from clients meanwhile.
        """
        self._watched.poll(max(1, round(1000 * seconds)))

    def ready(self, other: int | zmq.Socket[bytes]) -> bool:
        """Return True if a watched object was readable at the last poll."""
        return other in self._ready

    def receive(self, *, control: bool) -> ReceivedMessage | None:
        """Return the next message or None, round-robin over connections."""
        pending = self._pending[control]
        now = time.monotonic()
        while pending:
            connection = pending.popleft()
            connection.pending = False
            message = self._next_message(connection, now)
            if message is None:
                continue
            self._enqueue(connection)
            return ReceivedMessage(
                control, connection.identity, connection.key, message.parts, message.reservation
            )
        return None

    def send(self, identity: bytes, parts: list[Any], *, control: bool) -> bool:
        """Send to one connection, by the next ``flush`` or ``poll``; False if there is no room.

        To one that is gone there always is.
        """
        connection = self._connections.get(identity)
        if connection is None or connection.control is not control:
            return True
        sent = connection.send(parts)
        self._update_events(connection)
        return sent

    def flush(self) -> None:
        """Send what there is room for: what goes to one connection goes together."""
        while self._unflushed:
            connection = self._unflushed.popitem()[1]
            if not connection.closed:
                self._flush(connection)
        while self.unsent > self._reply_limit:
            self._disconnect(max(self._connections.values(), key=lambda other: other.unsent))

    def close(self) -> None:
        """Send pending replies for at most a second, then close everything."""
        for listener in (self._data, self._control):
            self._selector.unregister(listener.sock)
        self.flush()
        end = time.monotonic() + _LINGER_SECONDS
        while self.unsent and (left := end - time.monotonic()) > 0:
            for entry, events in self._selector.select(left):
                if isinstance(entry.data, Connection) and events & selectors.EVENT_WRITE:
                    self._flush(entry.data)
        for connection in list(self._connections.values()):
            self._disconnect(connection)
        self._selector.close()
        for listener in (self._control, self._data):
            listener.close()

    def _handle_event(self, other: Any, events: int) -> None:
        """Handle an event of the selector."""
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
        for _ in range(_ACCEPTS_PER_TURN):
            sock = listener.accept()
            if sock is None:
                return
            now = time.monotonic()
            if len(self._connections) >= self._connection_limit and not self._evict_idle(now):
                sock.close()
                return
            if len(self._handshaking) >= min(_MAX_HANDSHAKING, self._connection_limit // 2):
                self._disconnect(next(iter(self._handshaking.values())))
            number, control = next(self._ids), listener is self._control
            connection = Connection(sock, number, control, self._mechanism(), self.budget, self._limits, now)
            self._connections[connection.identity] = self._handshaking[connection.identity] = connection
            self._update_events(connection)

    def _mechanism(self) -> Mechanism:
        if self._secret is None or self._authorized_keys is None:
            return NullMechanism()
        return CurveMechanism(self._secret, self._authorized_keys.is_authorized)

    def _evict_idle(self, now: float) -> bool:
        """Disconnect the longest idle connection, if it has been idle for long enough."""
        connection = next(iter(self._handshaking.values()), None)
        if connection is None:
            connection = min(self._connections.values(), key=lambda other: other.last_message_at)
            if now - connection.last_message_at < _IDLE_SECONDS[connection.asked]:
                return False
        self._disconnect(connection)
        return True

    def _read(self, connection: Connection) -> None:
        if connection.pending:
            return  # what it sent before has to be looked at first
        try:
            connection.read()
        except DisconnectError:
            self._disconnect(connection)
        else:
            self._enqueue(connection)

    def _enqueue(self, connection: Connection) -> None:
        """Queue a connection for ``receive``."""
        if not connection.pending:
            connection.pending = True
            self._pending[connection.control].append(connection)

    def _next_message(self, connection: Connection, now: float) -> Any:
        """Return its next message, or None."""
        if connection.closed:
            return None
        try:
            message = None if connection.unsent and connection.paused else connection.next_message(now)
            if connection.ready and connection.identity in self._handshaking:
                self._finish_handshake(connection)
        except DisconnectError:
            self._disconnect(connection)
            return None
        if connection.starved:
            self._starved.append(connection)
        self._update_events(connection)
        return message

    def _finish_handshake(self, connection: Connection) -> None:
        """Count a connection under its key; DisconnectError if the key has too many."""
        del self._handshaking[connection.identity]
        if connection.key:
            self._connections_by_key[connection.key] = self._connections_by_key.get(connection.key, 0) + 1
            if self._connections_by_key[connection.key] > self._connection_limit // 2:
                raise DisconnectError("too many connections of one key")

    def _retry_starved(self) -> None:
        """Retry connections whose message found no memory."""
        starved, self._starved = self._starved, []
        for connection in starved:
            if not connection.closed:
                connection.starved = False
                self._enqueue(connection)

    def _flush(self, connection: Connection) -> None:
        paused = connection.paused
        try:
            connection.flush()
        except DisconnectError:
            self._disconnect(connection)
            return
        if paused and not connection.paused:
            self._enqueue(connection)
        self._update_events(connection, blocked=bool(connection.unsent))

    def _update_events(self, connection: Connection, *, blocked: bool = False) -> None:
        """Update the selector events of a connection.

        Args:
            connection: the connection.
            blocked: whether its socket takes no more of what waits to be sent.
        """
        if connection.closed:
            return
        self.unsent += connection.unsent - connection.counted_unsent
        connection.counted_unsent = connection.unsent
        blocked = connection.unsent > 0 and (blocked or bool(connection.event_mask & selectors.EVENT_WRITE))
        if connection.unsent and not blocked:
            self._unflushed[connection.identity] = connection
        event_mask = (0 if connection.paused else selectors.EVENT_READ) | (
            selectors.EVENT_WRITE if blocked else 0
        )
        if event_mask == connection.event_mask:
            return
        if not connection.event_mask:
            self._selector.register(connection.sock, event_mask, connection)
        elif not event_mask:
            self._selector.unregister(connection.sock)
        else:
            self._selector.modify(connection.sock, event_mask, connection)
        connection.event_mask = event_mask

    def _disconnect(self, connection: Connection) -> None:
        del self._connections[connection.identity]
        self._handshaking.pop(connection.identity, None)
        if connection.key and connection.key in self._connections_by_key:
            self._connections_by_key[connection.key] -= 1
            if not self._connections_by_key[connection.key]:
                del self._connections_by_key[connection.key]
        if connection.event_mask:
            self._selector.unregister(connection.sock)
        self.unsent -= connection.counted_unsent
        connection.close()

    def _run_maintenance(self, now: float) -> None:
        """Disconnect timed-out connections; if messages starve, also the largest unfinished one."""
        for connection in list(self._connections.values()):
            if connection.timed_out(now):
                self._disconnect(connection)
        if self._starved and self.budget.used + _CONNECTION_LIMITS.total > self.budget.limit:
            unfinished = (one for one in self._connections.values() if one.held)
            slow = [one for one in unfinished if now - one.started_at > _SLOW_MESSAGE_SECONDS]
            if slow:
                self._disconnect(max(slow, key=lambda connection: connection.held))


def _max_connections() -> int:
    """Number of connections that the file descriptors allow."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):
        allowed -= len(os.listdir("/dev/fd"))
    return max(4, min(_MAX_CONNECTIONS, allowed - _RESERVED_DESCRIPTORS))
