"""Request handler of a server: leases, control requests, and requests on their way to the engine and back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from worldsim.bridge.journal.journal import Journal
from worldsim.bridge.server.batcher import Batcher
from worldsim.bridge.server.incoming_message import IncomingMessage
from worldsim.bridge.server.io_loop import IoLoop
from worldsim.bridge.server.leases import Lease, Leases, pack_records
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.quotas import Quotas
from worldsim.bridge.server.replies import ok_reply, reply_to
from worldsim.bridge.server.requests import Request, RequestReader
from worldsim.bridge.server.session_manager import JournalDivergedError
from worldsim.bridge.server.sessions import Sessions
from worldsim.bridge.server.tasks import ForkTask, OpenTask, RestoreTask
from worldsim.bridge.wire.protocol import Code
from worldsim.errors import BridgeError

__all__ = ["RequestHandler"]

_REQUESTS_PER_SUBMIT = 64
"""Requests that are handed to the batcher though more have been admitted."""


class RequestHandler:
    """Handler of a server's loop; used by its thread, but for ``deliver``.

    Args:
        loop: sends the replies.
        batcher: executes requests on the engine.
        sessions: table of all sessions, read only.
        leases: owned by the handler.
        journal: for new leases, or None.
        reader: parser of engine requests.
        metrics: counters.
        quotas: of slots and leases per client.
        server_info: constant part of the reply to ``hello``.
        info: returns the reply to ``info``.
        capacity: sessions that the server has room for.
        behind_router: True if a router forwards all messages and names their keys.
    """

    def __init__(
        self,
        loop: IoLoop,
        batcher: Batcher,
        sessions: Sessions,
        leases: Leases,
        journal: Journal | None,
        reader: RequestReader,
        metrics: ServerMetrics,
        *,
        quotas: Quotas,
        server_info: Mapping[str, Any],
        info: Callable[[], dict[str, Any]],
        capacity: int,
        behind_router: bool = False,
    ) -> None:
        self._loop, self._batcher, self._sessions = loop, batcher, sessions
        self._leases, self._journal, self._reader, self._metrics = leases, journal, reader, metrics
        self._quotas, self._server_info, self._info = quotas, dict(server_info), info
        self.capacity, self._behind_router = capacity, behind_router
        self._accepted: list[Request] = []
        """Parsed requests, not handed to the batcher yet."""
        self._answered_requests: deque[Request] = deque()

    @property
    def step_seconds(self) -> float:
        """Smoothed duration of a batch."""
        return self._batcher.step_seconds

    @property
    def has_work(self) -> bool:
        """True if answered requests have not been sent yet."""
        return bool(self._answered_requests)

    def deliver(self, requests: list[Request]) -> None:
        """Queue answered requests for sending; may be called from any thread."""
        self._answered_requests.extend(requests)
        self._loop.wake()

    def on_poll(self, now: float) -> None:
        """Send the replies of answered requests."""
        if not self._behind_router:
            self._leases.record_poll(now)
        while self._answered_requests:
            request = self._answered_requests.popleft()
            self._loop.finish(request.connection, request.envelope.session)
            self._leases.release(request.envelope.lease, now)
            if request.reserved_sessions:
                self._quotas.release(request.envelope.lease, request.reserved_sessions)
            for answer in request.answers:
                if isinstance(answer, BridgeError):
                    self._metrics.count_error(answer.code)
            try:
                self._loop.send(request.connection, reply_to(request))
            except Exception:  # one answer must never end the service of all others
                logging.getLogger("worldsim").exception("an answer could not be sent")
                self._metrics.count_error(Code.INTERNAL)
            request.reservation = None

    def on_control(self, message: IncomingMessage) -> None:
        """Answer ``hello``, ``heartbeat`` or ``info``, and to a router ``leases``."""
        if self._behind_router:
            self._leases.record_poll(self._loop.last_turn)
        envelope, fields = message.envelope, message.fields
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
        self._loop.send(message.connection, ok_reply(envelope, values, told))

    def on_request(self, message: IncomingMessage) -> None:
        """Parse a request and queue it for the batcher."""
        if self._behind_router:  # its clients can be heard when it forwards a message
            self._leases.record_poll(self._loop.last_turn)
        request = self._parse(message)
        lease = self._leases.require(message.envelope.lease, message.key, message.arrived)
        self._reserve_sessions(lease, request)
        self._metrics.count_request(message.envelope.op)
        lease.waiting += 1
        self._accepted.append(request)

    def on_turn(self) -> None:
        """Hand parsed requests to the batcher.

        All at once: an engine that starts with the first takes the processor from parsing the others.
        """
        if self._accepted and (not self._loop.backlog or len(self._accepted) >= _REQUESTS_PER_SUBMIT):
            accepted, self._accepted = self._accepted, []
            self._batcher.submit(accepted)

    def on_maintenance(self, now: float) -> None:
        """End the sessions of expired leases."""
        for lease in self._leases.expire(now):
            self._batcher.end_lease(lease.token)

    def _answer_hello(self, message: IncomingMessage) -> dict[str, Any]:
        client_name, old, now = message.fields.string("client", 64), message.envelope.lease, message.arrived
        message.fields.check_empty()
        lease = self._leases.find(old, message.key, now)
        if lease is None:
            self._loop.check_not_draining()
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

    def _parse(self, message: IncomingMessage) -> Request:
        envelope, connection, arrived = message.envelope, message.connection, message.arrived
        if message.step is not None:
            return self._reader.read_step(message.step, envelope, connection, arrived)
        request = self._reader.read(envelope, message.fields, message.payloads, connection, arrived)
        request.reservation = message.reservation
        return request

    def _reserve_sessions(self, lease: Lease, request: Request) -> None:
        """Reserve new sessions, so that a full server refuses at once; the batcher checks again."""
        task = request.tasks[0]
        if isinstance(task, OpenTask | RestoreTask | ForkTask):
            names = task.children if isinstance(task, ForkTask) else (task.session,)
            request.reserved_sessions = sum(name not in self._sessions for name in names)
            self._quotas.reserve(lease, request.reserved_sessions, request.arrived)
