"""The sockets' thread: reads what comes in, answers what needs no engine, sends what it answered."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from worldsim.bridge.journal.journal import Journal
from worldsim.bridge.server.batcher import Batcher
from worldsim.bridge.server.connections import ClientConnection, ConnectionTable
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
from worldsim.bridge.wire.protocol import ClientLimits, Code
from worldsim.errors import BridgeError

__all__ = ["IoLoop"]

_MESSAGES_PER_TURN = 64
"""Messages that are taken from one socket before the other gets its turn."""
_REQUESTS_PER_TURN = 16
"""Requests for the engine that are read in one turn."""
_MAINTENANCE_INTERVAL = 0.05
"""Seconds between two looks at leases and the rest."""
_REFUSAL_BATCH = 16
"""Refusals that leave together: to wake ZeroMQ's thread for each takes longer than to send it."""
_MALFORMED_PER_TURN = 4
"""Malformed messages of one socket after which the turn goes to the next."""
_BACK_OFF_SECONDS = (0.001, 0.005)
"""Seconds at least and at most that malformed messages have to wait once one was refused."""
_DRAIN_SECONDS = 2.0
"""Seconds that the last answers may take to leave."""
_UNCHARGED_HEADER = 512
"""Bytes of a header that is not charged for: what may wait of them is bounded by count."""
_UNPACKED_FACTOR = 16
"""Times as much as a header takes once it is read."""


class IoLoop:
    """Serves clients until it is stopped.

    Args:
        sockets: bound.
        batcher: does what needs the engine.
        sessions: to look at.
        leases: of which it keeps count.
        journal: that leases are written to, or None.
        reader: of requests.
        limits: of one client.
        metrics: counts.
        server_info: the unchanging part of its answer.
        info: all of that answer, made when asked.
        capacity: sessions that the server has room for.
        authenticated: whether clients have keys.
        behind_router: whether all messages come from a router, which says whose they are.
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
        """Requests for the engine whose envelope alone has been looked at."""
        self._accepted: list[Request] = []
        """Requests for the engine that have just come in."""
        self._refusals: list[tuple[ClientConnection, list[Any]]] = []
        """Not sent yet, though they will be before the turn ends."""
        self._answered_requests: deque[Request] = deque()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        sockets.watch(self._wake_read)
        self._wake_poll = select.poll()
        self._wake_poll.register(self._wake_read, select.POLLIN)
        """Waits for the engine's answers alone."""
        self._wake_lock, self._can_wake = threading.Lock(), True
        self.draining = self._stopping = False
        self._malformed_count = 0
        """Malformed messages of this turn."""
        self.waiting = 0
        """Requests that the engine has not answered yet."""
        self.last_turn = time.monotonic()
        """When the thread last came round."""

    def deliver(self, requests: list[Request]) -> None:
        """Answered requests, to be sent; from any thread."""
        self._answered_requests.extend(requests)
        self.wake()

    def wake(self) -> None:
        """Come round at once; from any thread."""
        # Under a lock: a descriptor that is closed in between may be another file's by then.
        with self._wake_lock, contextlib.suppress(BlockingIOError):  # full: it is awake already
            if self._can_wake:
                os.write(self._wake_write, b"\0")

    def stop(self) -> None:
        """Send what is answered, then return from ``run``; from any thread."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """The thread's work. Closes the sockets at its end."""
        tick, drain_deadline = 0.0, None
        try:
            while drain_deadline is None or (time.monotonic() < drain_deadline and self._has_work):
                self._sockets.poll(0 if self._unread else _MAINTENANCE_INTERVAL)
                now = self.last_turn = time.monotonic()
                if not self._behind_router:
                    self._leases.record_poll(now)
                if self._sockets.ready(self._wake_read):
                    self._drain_wake_pipe()
                self._send_answers()
                for control in (True, False):
                    self._receive(now, control=control)
                self._send_refusals()
                self._read()
                self._send_refusals()
                self._back_off(time.monotonic() - now)
                if now - tick > _MAINTENANCE_INTERVAL:
                    tick = now
                    self._run_maintenance(now)
                if self._stopping and drain_deadline is None:
                    drain_deadline = now + _DRAIN_SECONDS
        finally:
            self._sockets.close()
            with self._wake_lock:
                self._can_wake = False
                for end in (self._wake_read, self._wake_write):
                    os.close(end)

    @property
    def _has_work(self) -> bool:
        """Whether there is anything left to answer or to send."""
        return bool(self._answered_requests or self._unread or self._sockets.unsent)

    def _back_off(self, worked: float) -> None:
        """After malformed messages nothing is taken in for twice as long as the turn took or until an answer.

        The two threads share the interpreter, and to take each message as it comes slows the engine most. So
        who sends a flood of them gets a third of this thread's time, and the steps of others go on.
        """
        if self._malformed_count:
            self._malformed_count = 0
            least, most = _BACK_OFF_SECONDS
            self._wake_poll.poll(1000 * min(max(2 * worked, least), most))

    def _drain_wake_pipe(self) -> None:
        try:
            os.read(self._wake_read, 65536)
        except BlockingIOError:
            return

    def _receive(self, now: float, *, control: bool) -> None:
        """Take in what has come, and answer what can be answered now: refusals, above all."""
        most = self._malformed_count + _MALFORMED_PER_TURN
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
            if self._malformed_count == most:
                return

    def _read(self) -> None:
        """Read some of the requests for the engine."""
        for _ in range(min(len(self._unread), _REQUESTS_PER_TURN)):
            message = self._unread.popleft()
            if not self._handle(message, self._submit):
                message.connection.finish_request(message.envelope.session)
        # BatchedRewardFn: an engine that begins with the first of many takes the processor from those that follow.
        if self._accepted and (not self._unread or len(self._accepted) >= _MESSAGES_PER_TURN):
            accepted, self._accepted = self._accepted, []
            self._batcher.submit(accepted)

    def _handle(self, message: IncomingMessage, work: Callable[[IncomingMessage], None]) -> bool:
        """Whether it could be done."""
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
            self._malformed_count += 1
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
        """What there is no room for is dropped, and asked for again by the client."""
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
        client, old, now = message.fields.string("client", 64), message.envelope.lease, message.arrived
        message.fields.check_empty()
        lease = self._leases.find(old, message.key, now)
        if lease is None:
            self._check_not_draining()
            owner = "" if self._behind_router else message.connection.identity.hex()
            self._leases.check(message.key, owner)
            if self._leases.full and (spare := self._quotas.reclaimable_lease()) is not None:
                self._end_lease(spare)
            lease = self._leases.grant(message.key, client, now, old if self._behind_router else "", owner)
            self._journal_lease(lease)
        sessions = {hosted.name: hosted.seq for hosted in self._sessions.of_lease(lease.token)}
        return {**self._server_info, "lease": lease.token, "ttl_s": self._leases.ttl, "sessions": sessions}

    def _end_lease(self, lease: Lease) -> None:
        self._leases.end(lease)
        self._batcher.end_lease(lease.token)

    def _journal_lease(self, lease: Lease) -> None:
        """A lease that cannot be written down is not given."""
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
        """To the engine."""
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
        """Milliseconds, a batch at most, until there is room; not so long for all, or they come together."""
        return max(10.0, 1000 * self._batcher.step_seconds * random.uniform(0.5, 1.0))

    def _reserve_memory(self, message: IncomingMessage) -> None:
        """Charge for what is made of a message while it waits: its header's values, its payloads' copies."""
        header, payloads = len(message.parts[1]), sum(map(len, message.payloads))
        size = payloads + (_UNPACKED_FACTOR * header if header > _UNCHARGED_HEADER else 0)
        if size and not message.reservation.grow(size):
            rule, wait = "what waits for a server must have room", 2 * self._retry_after_ms()
            raise BridgeError(rule, size, "try again later", code=Code.UNAVAILABLE, retry_after_ms=wait)

    def _reserve_sessions(self, lease: Lease, request: Request) -> None:
        """A full server says so at once; the last word is the engine's thread's."""
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
