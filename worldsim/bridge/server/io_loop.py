"""I/O loop: the thread of the sockets, with admission control, leases and control requests."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from worldsim.bridge.journal.journal import Journal
from worldsim.bridge.server.batcher import Batcher
from worldsim.bridge.server.connections import ClientConnection, ConnectionTable
from worldsim.bridge.server.flood_control import FloodControl
from worldsim.bridge.server.incoming_message import IncomingMessage
from worldsim.bridge.server.leases import Lease, Leases, pack_records
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.quotas import Quotas
from worldsim.bridge.server.replies import error_reply, ok_reply, reply_to
from worldsim.bridge.server.requests import Request, RequestReader
from worldsim.bridge.server.session_manager import JournalDivergedError
from worldsim.bridge.server.sessions import Sessions
from worldsim.bridge.server.sockets import Sockets
from worldsim.bridge.server.tasks import ForkTask, OpenTask, RestoreTask
from worldsim.bridge.server.wake_pipe import WakePipe
from worldsim.bridge.wire.protocol import ClientLimits, Code
from worldsim.errors import BridgeError

__all__ = ["IoLoop"]

_MESSAGES_PER_TURN = 64
"""Messages read from one socket before the other one."""
_REQUESTS_PER_TURN = 16
"""Engine requests parsed per turn."""
_MAINTENANCE_INTERVAL = 0.05
"""Seconds between two checks for expired leases."""
_REFUSAL_BATCH = 16
"""Error replies sent together."""
_DRAIN_SECONDS = 2.0
"""Seconds in which the last replies are sent on shutdown."""
_UNCHARGED_HEADER = 512
"""Header bytes without a reservation: the number of waiting requests bounds them."""
_UNPACKED_FACTOR = 16
"""Memory of a parsed header over its bytes on the wire."""


class IoLoop:
    """Loop that serves clients until it is stopped.

    Args:
        sockets: bound.
        batcher: executes requests on the engine.
        sessions: table of all sessions, read only.
        leases: owned by the loop.
        journal: for new leases, or None.
        reader: parser of engine requests.
        limits: of one client.
        metrics: counters.
        server_info: constant part of the reply to ``hello``.
        info: returns the reply to ``info``.
        capacity: sessions that the server has room for.
        authenticated: True if clients have keys.
        behind_router: True if a router forwards all messages and names their keys.
    """

    def __init__(
        self,
        sockets: Sockets,
        batcher: Batcher,
        sessions: Sessions,
        leases: Leases,
        journal: Journal | None,
        reader: RequestReader,
        limits: ClientLimits,
        metrics: ServerMetrics,
        *,
        server_info: Mapping[str, Any],
        info: Callable[[], dict[str, Any]],
        capacity: int,
        authenticated: bool = False,
        behind_router: bool = False,
    ) -> None:
        self._sockets, self._batcher, self._sessions = sockets, batcher, sessions
        self._leases, self._journal, self._reader = leases, journal, reader
        self._limits, self._metrics = limits, metrics
        self._server_info, self._info, self._capacity, self._behind_router = (
            dict(server_info),
            info,
            capacity,
            behind_router,
        )
        self._quotas = Quotas(leases, sessions, capacity, limits.sessions, authenticated=authenticated)
        self._connections = ConnectionTable(limits.rate, limits.malformed)
        self._unread: deque[IncomingMessage] = deque()
        """Engine requests of which only the envelope has been parsed."""
        self._accepted: list[Request] = []
        """Parsed requests, not handed to the batcher yet."""
        self._refusals: list[tuple[ClientConnection, list[Any]]] = []
        """Error replies to be sent before the turn ends."""
        self._answered_requests: deque[Request] = deque()
        self._wake_pipe = WakePipe()
        sockets.watch(self._wake_pipe.reader)
        self.draining = self._stopping = False
        self._flood = FloodControl()
        self.waiting = 0
        """Requests not answered by the engine yet."""
        self.last_turn = time.monotonic()
        """Time of the last turn, for the liveness check."""

    def deliver(self, requests: list[Request]) -> None:
        """Queue answered requests for sending; may be called from any thread."""
        self._answered_requests.extend(requests)
        self._wake_pipe.wake()

    def stop(self) -> None:
        """Send pending replies, then return from ``run``; may be called from any thread."""
        self._stopping = True
        self._wake_pipe.wake()

    def run(self) -> None:
        """Run the loop; closes the sockets at its end."""
        tick, drain_deadline = 0.0, None
        try:
            while drain_deadline is None or (time.monotonic() < drain_deadline and self._has_work):
                self._sockets.poll(0 if self._unread else _MAINTENANCE_INTERVAL)
                now = self.last_turn = time.monotonic()
                if not self._behind_router:
                    self._leases.record_poll(now)
                if self._sockets.ready(self._wake_pipe.reader):
                    self._wake_pipe.drain()
                self._send_answers()
                for control in (True, False):
                    self._receive(now, control=control)
                self._send_refusals()
                self._read()
                self._send_refusals()
                if pause := self._flood.end_turn(time.monotonic() - now):
                    # The two threads share the interpreter, and reading each message on arrival slows the
                    # engine most. An engine's reply ends the pause.
                    self._wake_pipe.wait(1000 * pause)
                if now - tick > _MAINTENANCE_INTERVAL:
                    tick = now
                    self._run_maintenance(now)
                if self._stopping and drain_deadline is None:
                    drain_deadline = now + _DRAIN_SECONDS
        finally:
            self._sockets.close()
            self._wake_pipe.close()

    @property
    def _has_work(self) -> bool:
        """True if there is anything left to answer or to send."""
        return bool(self._answered_requests or self._unread or self._sockets.unsent)

    def _receive(self, now: float, *, control: bool) -> None:
        """Read messages of one socket, and reply to those that need no engine."""
        self._flood.start_socket()
        for _ in range(_MESSAGES_PER_TURN):
            incoming = self._sockets.receive(control=control)
            if incoming is None:
                return
            if self._behind_router:
                self._leases.record_poll(now)
            connection = self._connections.lookup(control, incoming.identity, incoming.key, now)
            self._handle(IncomingMessage(incoming.parts, connection, now, incoming.reservation), self._admit)
            if len(self._refusals) >= _REFUSAL_BATCH:
                self._send_refusals()
            if self._flood.exhausted:
                return

    def _read(self) -> None:
        """Parse some of the engine requests."""
        for _ in range(min(len(self._unread), _REQUESTS_PER_TURN)):
            message = self._unread.popleft()
            if not self._handle(message, self._submit):
                message.connection.finish_request(message.envelope.session)
        # All at once: an engine that starts with the first takes the processor from parsing the others.
        if self._accepted and (not self._unread or len(self._accepted) >= _MESSAGES_PER_TURN):
            accepted, self._accepted = self._accepted, []
            self._batcher.submit(accepted)

    def _handle(self, message: IncomingMessage, work: Callable[[IncomingMessage], None]) -> bool:
        """Run ``work`` on a message; return False if it was refused."""
        try:
            work(message)
            return True
        except BridgeError as error:
            self._reject(message, error)
        except JournalDivergedError:
            raise
        except Exception:  # one message must never end the service of all others
            logging.getLogger("worldsim").exception("a message could not be handled")
            self._metrics.count_error(Code.INTERNAL)
        return False

    def _admit(self, message: IncomingMessage) -> None:
        message.open(behind_router=self._behind_router)
        self._check_rate(message.connection, message.arrived)
        if message.connection.control:
            self._answer_control(message)
            return
        self._check_not_draining()
        self._check_queue(message.connection, message.envelope.session)
        self._reserve_memory(message)
        message.connection.start_request(message.envelope.session)
        self._unread.append(message)

    def _reject(self, message: IncomingMessage, error: BridgeError) -> None:
        self._metrics.count_error(error.code)
        if error.code in (Code.BAD_REQUEST, Code.VERSION):
            self._metrics.count_malformed()
            self._flood.count()
            if not message.connection.malformed.allow(message.arrived):
                return
        self._refusals.append((message.connection, error_reply(message.envelope, error)))

    def _send_refusals(self) -> None:
        for connection, parts in self._refusals:
            self._send(connection, parts)
        if self._refusals:
            self._refusals.clear()
            self._sockets.flush()

    def _send(self, connection: ClientConnection, parts: list[Any]) -> None:
        """Send a reply; one beyond the limits is dropped, and the client repeats its request."""
        self._sockets.send(connection.identity, parts, control=connection.control)

    def _check_rate(self, connection: ClientConnection, now: float) -> None:
        if not connection.requests.allow(now):
            rule = f"a client may send {self._limits.rate} requests a second"
            raise BridgeError(
                rule, None, "send fewer", code=Code.UNAVAILABLE, retry_after_ms=1000 * (1 - now % 1)
            )

    def _answer_control(self, message: IncomingMessage) -> None:
        envelope, fields = message.envelope, message.fields
        if message.payloads:
            raise BridgeError("a control request has no payloads", len(message.payloads))
        told: list[bytes] = []
        if envelope.op == "hello":
            values = self._answer_hello(message)
        elif envelope.op == "heartbeat":
            fields.check_empty()
            self._leases.require(envelope.lease, message.key, message.arrived)
            values = {}
        elif envelope.op == "info":
            fields.check_empty()
            values = self._info()
        elif envelope.op == "leases" and self._behind_router:
            fields.check_empty()
            values, told = {}, [pack_records(lease.record() for lease in self._leases)]
        else:
            known = "the control socket takes hello, heartbeat, info"
            raise BridgeError("a request's op must be known", envelope.op, known)
        self._metrics.count_request(envelope.op)
        self._send(message.connection, ok_reply(envelope, values, told))

    def _answer_hello(self, message: IncomingMessage) -> dict[str, Any]:
        client_name, old, now = message.fields.string("client", 64), message.envelope.lease, message.arrived
        message.fields.check_empty()
        lease = self._leases.find(old, message.key, now)
        if lease is None:
            self._check_not_draining()
            owner = "" if self._behind_router else message.connection.identity.hex()
            self._leases.check(message.key, owner)
            if self._leases.full and (spare := self._quotas.reclaimable_lease()) is not None:
                self._end_lease(spare)
            lease = self._leases.grant(
                message.key, client_name, now, old if self._behind_router else "", owner
            )
            self._journal_lease(lease)
        sessions = {hosted.name: hosted.seq for hosted in self._sessions.of_lease(lease.token)}
        return {**self._server_info, "lease": lease.token, "ttl_s": self._leases.ttl, "sessions": sessions}

    def _end_lease(self, lease: Lease) -> None:
        self._leases.end(lease)
        self._batcher.end_lease(lease.token)

    def _journal_lease(self, lease: Lease) -> None:
        """Write a lease to the journal; one that cannot be written is not granted."""
        if self._journal is None:
            return
        try:
            self._journal.append(lease.record())
        except (BridgeError, OSError) as error:
            if isinstance(error, BridgeError) and error.code == Code.UNAVAILABLE:
                self._leases.end(lease)
                raise
            raise JournalDivergedError(str(error)) from error

    def _submit(self, message: IncomingMessage) -> None:
        """Parse a request and queue it for the batcher."""
        self._check_not_draining()
        request = self._parse(message)
        lease = self._leases.require(message.envelope.lease, message.key, message.arrived)
        self._reserve_sessions(lease, request)
        self._metrics.count_request(message.envelope.op)
        lease.waiting += 1
        self.waiting += 1
        self._accepted.append(request)

    def _parse(self, message: IncomingMessage) -> Request:
        envelope, connection, arrived = message.envelope, message.connection, message.arrived
        if message.step is not None:
            return self._reader.read_step(message.step, envelope, connection, arrived)
        request = self._reader.read(envelope, message.fields, message.payloads, connection, arrived)
        request.reservation = message.reservation
        return request

    def _check_not_draining(self) -> None:
        if self.draining:
            raise BridgeError(
                "a server takes no requests at its end", None, "reconnect later", code=Code.DRAINING
            )

    def _check_queue(self, connection: ClientConnection, session: str) -> None:
        if not connection.has_room(session, self._limits.waiting):
            connection.last_refused = self.last_turn
            rule = f"a client may have {self._limits.waiting} requests waiting, each session an equal part"
            raise BridgeError(
                rule,
                connection.in_flight_total,
                "await some",
                code=Code.UNAVAILABLE,
                retry_after_ms=self._retry_after_ms(),
            )
        most = max(1024, 8 * self._capacity)
        if self.waiting + len(self._unread) >= most:
            rule = f"a server may have {most} requests waiting"
            wait = 2 * self._retry_after_ms()
            raise BridgeError(
                rule, self.waiting, "try again later", code=Code.UNAVAILABLE, retry_after_ms=wait
            )

    def _retry_after_ms(self) -> float:
        """Jittered retry delay of up to one batch, in milliseconds."""
        return max(10.0, 1000 * self._batcher.step_seconds * random.uniform(0.5, 1.0))

    def _reserve_memory(self, message: IncomingMessage) -> None:
        """Reserve memory for the parsed header and the payload copies of a message."""
        header, payloads = len(message.parts[1]), sum(map(len, message.payloads))
        size = payloads + (_UNPACKED_FACTOR * header if header > _UNCHARGED_HEADER else 0)
        if size and not message.reservation.grow(size):
            rule, wait = "what waits for a server must have room", 2 * self._retry_after_ms()
            raise BridgeError(rule, size, "try again later", code=Code.UNAVAILABLE, retry_after_ms=wait)

    def _reserve_sessions(self, lease: Lease, request: Request) -> None:
        """Reserve new sessions, so that a full server refuses at once; the batcher checks again."""
        task = request.tasks[0]
        if isinstance(task, OpenTask | RestoreTask | ForkTask):
            names = task.children if isinstance(task, ForkTask) else (task.session,)
            request.reserved_sessions = sum(name not in self._sessions for name in names)
            self._quotas.reserve(lease, request.reserved_sessions, request.arrived)

    def _send_answers(self) -> None:
        while self._answered_requests:
            request = self._answered_requests.popleft()
            self.waiting -= 1
            request.connection.finish_request(request.envelope.session)
            self._leases.release(request.envelope.lease, self.last_turn)
            if request.reserved_sessions:
                self._quotas.release(request.envelope.lease, request.reserved_sessions)
            for answer in request.answers:
                if isinstance(answer, BridgeError):
                    self._metrics.count_error(answer.code)
            try:
                self._send(request.connection, reply_to(request))
            except Exception:  # one answer must never end the service of all others
                logging.getLogger("worldsim").exception("an answer could not be sent")
                self._metrics.count_error(Code.INTERNAL)
            request.reservation = None
        self._sockets.flush()

    def _run_maintenance(self, now: float) -> None:
        for lease in self._leases.expire(now):
            self._batcher.end_lease(lease.token)
        self._connections.prune(now)
