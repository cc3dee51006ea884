"""I/O loop of a server or a router: the thread of its sockets, with admission and flood control.

Each turn sends the replies that have arrived, reads some messages of either socket, and hands on some of the
requests admitted so far. A handler answers; the loop refuses what is beyond the limits before it does.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from worldsim.bridge.server.connections import ClientConnection, ConnectionTable
from worldsim.bridge.server.flood_control import FloodControl
from worldsim.bridge.server.incoming_message import IncomingMessage
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.replies import error_reply
from worldsim.bridge.server.session_manager import JournalDivergedError
from worldsim.bridge.server.sockets import Sockets
from worldsim.bridge.server.wake_pipe import WakePipe
from worldsim.bridge.wire.protocol import ClientLimits, Code
from worldsim.errors import BridgeError

__all__ = ["IoHandler", "IoLoop"]

_MESSAGES_PER_TURN = 64
"""Messages read from one socket before the other one."""
_REQUESTS_PER_TURN = 16
"""Requests of the data socket handed on per turn."""
_MAINTENANCE_INTERVAL = 0.05
"""Seconds between two calls of ``IoHandler.on_maintenance``."""
_REFUSAL_BATCH = 16
"""Error replies sent together."""
_MIN_WAITING = 1024
"""Requests of all clients that may wait, however few the sessions are."""
_WAITING_PER_SESSION = 8
_MIN_RETRY_MS = 10.0
_UNCHARGED_HEADER = 512
"""Header bytes without a reservation: the number of waiting requests bounds them."""
_UNPACKED_FACTOR = 16
"""Memory of a parsed header over its bytes on the wire."""


class IoHandler(Protocol):
    """Work behind the sockets, called by the loop's thread only.

    ``on_control`` and ``on_request`` refuse a message by raising a ``BridgeError``, or later by
    ``IoLoop.refuse``.
    """

    @property
    def capacity(self) -> int:
        """Sessions that may have requests waiting."""

    @property
    def step_seconds(self) -> float:
        """Smoothed duration of a step, after which a refused request is worth a retry."""

    @property
    def has_work(self) -> bool:
        """True if replies are still to come when the loop has been stopped."""

    def on_poll(self, now: float) -> None:
        """Send the replies that are ready; ``now`` is on the monotonic clock, in seconds."""

    def on_control(self, message: IncomingMessage) -> None:
        """Answer a request of the control socket, now or later."""

    def on_request(self, message: IncomingMessage) -> None:
        """Take an admitted request of the data socket; ``IoLoop.finish`` counts it as answered."""

    def on_turn(self) -> None:
        """Go on with the requests taken; called after the last one of each turn."""

    def on_maintenance(self, now: float) -> None:
        """Do what is due, such as expiring leases; called a few times a second."""


class IoLoop:
    """Loop that serves clients until it is stopped.

    Args:
        sockets: bound; closed by the loop.
        limits: of one client.
        metrics: counters.
        drain_seconds: seconds in which the last replies are sent on shutdown.
        behind_router: True if a router forwards all messages and names their keys.
    """

    def __init__(
        self,
        sockets: Sockets,
        limits: ClientLimits,
        metrics: ServerMetrics,
        *,
        drain_seconds: float,
        behind_router: bool = False,
    ) -> None:
        self._sockets, self._limits, self._metrics = sockets, limits, metrics
        self._drain_seconds, self._behind_router = drain_seconds, behind_router
        self._connections = ConnectionTable(limits.rate, limits.malformed)
        self._flood = FloodControl()
        self._unread: deque[IncomingMessage] = deque()
        """Admitted requests, not handed on yet."""
        self._refusals: list[tuple[ClientConnection, list[Any]]] = []
        """Error replies to be sent before the turn ends."""
        self._wake_pipe = WakePipe()
        sockets.watch(self._wake_pipe.reader)
        self.draining = self._stopping = False
        self._handler: IoHandler
        self.waiting = 0
        """Admitted requests that are not answered yet."""
        self.last_turn = time.monotonic()
        """Time of the last turn, for the liveness check."""

    @property
    def backlog(self) -> bool:
        """True if admitted requests have not been handed on yet."""
        return bool(self._unread)

    def wake(self) -> None:
        """Begin a turn at once; may be called from any thread."""
        self._wake_pipe.wake()

    def stop(self) -> None:
        """Send pending replies, then return from ``run``; may be called from any thread."""
        self._stopping = True
        self.wake()

    def run(self, handler: IoHandler) -> None:
        """Run the loop; closes the sockets at its end."""
        self._handler, tick, drain_deadline = handler, 0.0, None
        try:
            while drain_deadline is None or (time.monotonic() < drain_deadline and self._has_work):
                self._sockets.poll(0 if self._unread else _MAINTENANCE_INTERVAL)
                now = self.last_turn = time.monotonic()
                self._run_turn(now)
                if now - tick > _MAINTENANCE_INTERVAL:
                    tick = now
                    self._connections.prune(now)
                    handler.on_maintenance(now)
                if self._stopping and drain_deadline is None:
                    drain_deadline = now + self._drain_seconds
        finally:
            self._sockets.close()
            self._wake_pipe.close()

    def send(self, connection: ClientConnection, parts: list[Any]) -> None:
        """Send a reply; one beyond the limits is dropped, and the client repeats its request."""
        self._sockets.send(connection.identity, parts, control=connection.control)

    def finish(self, connection: ClientConnection, session: str) -> None:
        """Count an admitted request as answered."""
        self.waiting -= 1
        connection.finish_request(session)

    def refuse(self, message: IncomingMessage, error: BridgeError) -> None:
        """Send an error reply before the turn ends; too many malformed messages of one client have none."""
        self._metrics.count_error(error.code)
        if error.code in (Code.BAD_REQUEST, Code.VERSION):
            self._metrics.count_malformed()
            self._flood.count()
            if not message.connection.malformed.allow(self.last_turn):
                return
        self._refusals.append((message.connection, error_reply(message.envelope, error)))

    def check_not_draining(self) -> None:
        """Raise ``DRAINING`` once the server takes no more requests."""
        if self.draining:
            raise BridgeError(
                "a server takes no requests at its end", None, "reconnect later", code=Code.DRAINING
            )

    @property
    def _has_work(self) -> bool:
        """True if there is anything left to answer or to send."""
        return bool(self._unread or self._sockets.unsent or self._handler.has_work)

    def _run_turn(self, now: float) -> None:
        if self._sockets.ready(self._wake_pipe.reader):
            self._wake_pipe.drain()
        self._handler.on_poll(now)
        self._sockets.flush()
        for control in (True, False):
            self._receive(now, control=control)
        self._send_refusals()
        self._hand_on()
        self._send_refusals()
        if pause := self._flood.end_turn(time.monotonic() - now):
            # Reading each message on arrival takes the processor from an engine, most of all from one that
            # shares the interpreter. An engine's reply ends the pause.
            self._sockets.pause(pause)

    def _receive(self, now: float, *, control: bool) -> None:
        """Read messages of one socket: answer control requests, and admit the others."""
        self._flood.start_socket()
        for _ in range(_MESSAGES_PER_TURN):
            incoming = self._sockets.receive(control=control)
            if incoming is None:
                return
            connection = self._connections.lookup(control, incoming.identity, incoming.key, now)
            message = IncomingMessage(incoming.parts, connection, now, incoming.reservation)
            self._handle(message, self._admit)
            if len(self._refusals) >= _REFUSAL_BATCH:
                self._send_refusals()
            if self._flood.exhausted:
                return

    def _hand_on(self) -> None:
        """Hand on some of the admitted requests."""
        work = self._refuse_draining if self.draining else self._handler.on_request
        for _ in range(min(len(self._unread), _REQUESTS_PER_TURN)):
            message = self._unread.popleft()
            if not self._handle(message, work):
                self.finish(message.connection, message.envelope.session)
        self._handler.on_turn()

    def _handle(
        self,
        message: IncomingMessage,
        work: Callable[[IncomingMessage], None],
    ) -> bool:
        """Run ``work`` on a message; return False if it was refused."""
        try:
            work(message)
            return True
        except BridgeError as error:
            self.refuse(message, error)
        except JournalDivergedError:
            raise
        except Exception:  # one message must never end the service of all others
            logging.getLogger("worldsim").exception("a message could not be handled")
            self._metrics.count_error(Code.INTERNAL)
        return False

    def _refuse_draining(self, _: IncomingMessage) -> None:
        self.check_not_draining()

    def _admit(self, message: IncomingMessage) -> None:
        """Open a message; answer a control request, queue any other."""
        message.open(behind_router=self._behind_router)
        connection, session = message.connection, message.envelope.session
        self._check_rate(connection, message.arrived)
        if connection.control:
            if message.payloads:
                raise BridgeError("a control request has no payloads", len(message.payloads))
            self._handler.on_control(message)
            return
        if self.draining:
            self.check_not_draining()
        self._check_queue(connection, session)
        self._reserve_memory(message)
        connection.start_request(session)
        self.waiting += 1
        self._unread.append(message)

    def _send_refusals(self) -> None:
        for connection, parts in self._refusals:
            self.send(connection, parts)
        if self._refusals:
            self._refusals.clear()
            self._sockets.flush()

    def _check_rate(self, connection: ClientConnection, now: float) -> None:
        if not connection.requests.allow(now):
            rule = f"a client may send {self._limits.rate} requests a second"
            raise BridgeError(
                rule, None, "send fewer", code=Code.UNAVAILABLE, retry_after_ms=1000 * (1 - now % 1)
            )

    def _check_queue(self, connection: ClientConnection, session: str) -> None:
        if not connection.has_room(session, self._limits.waiting):
            connection.last_refused = self.last_turn
            rule = f"a client may have {self._limits.waiting} requests waiting, each session an equal part"
            wait, waiting = self._retry_after_ms(), connection.in_flight_total
            raise BridgeError(rule, waiting, "await some", code=Code.UNAVAILABLE, retry_after_ms=wait)
        if self.waiting < _MIN_WAITING:
            return
        most = max(_MIN_WAITING, _WAITING_PER_SESSION * self._handler.capacity)
        if self.waiting >= most:
            rule, wait = f"a server may have {most} requests waiting", 2 * self._retry_after_ms()
            raise BridgeError(
                rule, self.waiting, "try again later", code=Code.UNAVAILABLE, retry_after_ms=wait
            )

    def _reserve_memory(self, message: IncomingMessage) -> None:
        """Reserve memory for the parsed header and the payload copies of a message."""
        header = len(message.parts[1])
        payloads = sum(map(len, message.payloads)) if len(message.parts) > 2 else 0
        size = payloads + (_UNPACKED_FACTOR * header if header > _UNCHARGED_HEADER else 0)
        if size and not message.reservation.grow(size):
            rule, wait = "what waits for a server must have room", 2 * self._retry_after_ms()
            raise BridgeError(rule, size, "try again later", code=Code.UNAVAILABLE, retry_after_ms=wait)

    def _retry_after_ms(self) -> float:
        """Jittered retry delay of up to one step, in milliseconds."""
        return max(_MIN_RETRY_MS, 1000 * self._handler.step_seconds * random.uniform(0.5, 1.0))
