"""Router: one address for several engines.

A session lives on one engine; the router knows which, and forwards requests and replies. All engines know all
leases and have them in their journals. So the router has no state of its own to lose: after a restart it asks
its engines for their sessions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsim.bridge.router.engine_pool import CREATING_OPS, EnginePool
from worldsim.bridge.router.scatter_gather import (
    GatheredReplies,
    Replies,
    error_item,
    join_steps,
    split_items,
    sum_info,
    unavailable,
)
from worldsim.bridge.server.connections import ClientConnection, ConnectionTable
from worldsim.bridge.server.flood_control import FloodControl
from worldsim.bridge.server.leases import Lease, Leases, unpack_records
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.replies import error_reply, ok_reply
from worldsim.bridge.server.requests import Envelope, read_envelope, read_op_and_id
from worldsim.bridge.server.sockets import ReceivedMessage, Sockets
from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.bridge.wire.protocol import REPLY, ClientLimits, Code, Message, decode, encode
from worldsim.bridge.wire.zmtp import Reservation
from worldsim.errors import BridgeError

__all__ = ["Router"]

_MESSAGES_PER_TURN = 64
_MAINTENANCE_INTERVAL = 0.05
_HEARTBEAT_SECONDS = 1.0
_DRAIN_SECONDS = 30.0
_SESSION_OPS = ("step", "step_chunk", "rewind", "observe", "fork", "snapshot", "close")


class Router:
    """Serves clients from construction until it is stopped.

    Args:
        address: of the data socket.
        command_lines: of each engine's command line, after ``worldsim``.
        keys: folder of keys, or None.
        journal: folder of the engines' journals, or None.
        lease_ttl: seconds that a lease lasts without a sign of life.
        limits: of one client.

    Raises:
        BridgeError: an address that is taken or needs keys.
    """

    def __init__(
        self,
        address: str,
        command_lines: Sequence[Sequence[str]],
        *,
        keys: Path | None = None,
        journal: Path | None = None,
        lease_ttl: float = 30.0,
        limits: ClientLimits | None = None,
    ) -> None:
        self.limits, self.metrics = limits or ClientLimits(), ServerMetrics()
        self._leases = Leases(lease_ttl)
        self._connections = ConnectionTable(self.limits.rate, self.limits.malformed)
        self._flood = FloodControl()
        self._sockets = Sockets(address, keys)
        self.address = self._sockets.address
        """Address of the data socket, with its port."""
        self.pool = EnginePool(command_lines, journal, self._sockets)
        self._draining = self._stopping = False
        self._settled = False
        """True once all engines have listed their leases."""
        self.last_turn = time.monotonic()
        self.ended = threading.Event()
        self.fault: BaseException | None = None
        """Exception that ended the router, if any."""
        self._thread = threading.Thread(target=self._serve, name="worldsim-router", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True if its thread runs."""
        return self.fault is None and not self.ended.is_set()

    @property
    def ready(self) -> bool:
        """True if requests are accepted."""
        return self.alive and not self._draining and bool(self.pool.ready)

    def add_gauges(self) -> None:
        """Add what there is to see to the metrics."""
        self.metrics.add_gauge("sessions", "Sessions that are open.", lambda: len(self.pool.placements))
        self.metrics.add_gauge("replicas", "Engines that are ready.", lambda: len(self.pool.ready))
        self.metrics.add_gauge("leases", "Leases that are alive.", lambda: len(self._leases))
        self.metrics.add_gauge("waiting_requests", "Requests on their way.", lambda: self.pool.waiting)

    def await_replicas(self, stop_requested: threading.Event) -> None:
        """Block until all engines are ready, or a stop is requested.

        Raises:
            BridgeError: none of them starts.
        """
        while not (stop_requested.wait(0.1) or self.ended.is_set() or self.pool.complete):
            if self.pool.hopeless:
                raise BridgeError("replicas must start", None, "see their errors above")

    def stop(self) -> None:
        """Drain, answer pending requests, and end the engines. Stopping twice is fine."""
        self._draining = self._stopping = True
        self._thread.join()

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self) -> None:
        try:
            self._run()
        except BaseException as error:
            logging.getLogger("worldsim").critical("the router has to end", exc_info=error)
            self.fault = error
        finally:
            self._sockets.close()
            self.pool.close()
            self.ended.set()

    def _run(self) -> None:
        tick = last_heartbeat = 0.0
        drain_deadline = None
        while drain_deadline is None or (self._has_work and time.monotonic() < drain_deadline):
            self._sockets.poll(_MAINTENANCE_INTERVAL)
            now = self.last_turn = time.monotonic()
            self._leases.record_poll(now)
            self.pool.receive()
            for control in (True, False):
                self._receive(now, control=control)
            time.sleep(self._flood.end_turn(time.monotonic() - now))
            if now - tick > _MAINTENANCE_INTERVAL:
                tick = now
                self._run_maintenance(now)
            if now - last_heartbeat > _HEARTBEAT_SECONDS:
                last_heartbeat = now
                self.pool.send_heartbeats(iter(self._leases))
            if self._stopping and drain_deadline is None:
                drain_deadline = now + _DRAIN_SECONDS

    @property
    def _has_work(self) -> bool:
        """True if there is anything left to answer or to send."""
        return bool(self.pool.waiting or self._sockets.unsent)

    def _run_maintenance(self, now: float) -> None:
        for lease in self._leases.expire(now):
            self.pool.forget_lease(lease)
        self._connections.prune(now)
        self.pool.maintain(now, lambda: iter(self._leases), self._take_in_leases)
        self._settled = self._settled or self.pool.complete

    def _take_in_leases(self, packed: bytes) -> list[Lease]:
        """Add the leases that an engine has; return those that were unknown."""
        new = [record for record in unpack_records(packed) if record["lease"] not in self._leases]
        for record in new:
            self._leases.recover(record, self.last_turn)
        tokens = {record["lease"] for record in new}
        return [lease for lease in self._leases if lease.token in tokens]

    def _require_lease(self, envelope: Envelope, client: ClientConnection, now: float) -> Lease:
        """Return the lease of a request; an unknown one may be alive until all engines have listed theirs."""
        if envelope.lease not in self._leases and not self._settled:
            raise unavailable("a server's engines must be ready", 500)
        return self._leases.require(envelope.lease, client.key, now)

    def _receive(self, now: float, *, control: bool) -> None:
        self._flood.start_socket()
        for _ in range(_MESSAGES_PER_TURN):
            incoming = None if self._flood.exhausted else self._sockets.receive(control=control)
            if incoming is None:
                return
            client = self._connections.lookup(control, incoming.identity, incoming.key, now)
            try:
                self._handle(incoming, client, now)
            except Exception:  # one message must never end the service of all others
                logging.getLogger("worldsim").exception("a message could not be handled")

    def _handle(self, incoming: ReceivedMessage, client: ClientConnection, now: float) -> None:
        envelope = Envelope()
        try:
            message = decode(incoming.parts)
            fields = HeaderFields(message.header, "a request")
            envelope = read_op_and_id(fields)
            read_envelope(fields, envelope)
            if not client.requests.allow(now):
                raise unavailable(
                    f"a client may send {self.limits.rate} requests a second", 1000 * (1 - now % 1)
                )
            if client.control:
                self._answer_control(envelope, fields, client, now)
            else:
                self._forward(envelope, message, client, now, incoming.reservation)
            self.metrics.count_request(envelope.op)
        except BridgeError as error:
            self._reject(client, envelope, error, now)

    def _reject(self, client: ClientConnection, envelope: Envelope, error: BridgeError, now: float) -> None:
        self.metrics.count_error(error.code)
        if error.code in (Code.BAD_REQUEST, Code.VERSION):
            self.metrics.count_malformed()
            self._flood.count()
            if not client.malformed.allow(now):
                return
        self._send(client, error_reply(envelope, error))

    def _send(self, client: ClientConnection, parts: list[Any]) -> None:
        """Send a reply; one beyond the limits is dropped, and the client repeats its request."""
        self._sockets.send(client.identity, parts, control=client.control)

    def _answer_control(
        self, envelope: Envelope, fields: HeaderFields, client: ClientConnection, now: float
    ) -> None:
        if envelope.op == "hello":
            client_name = fields.string("client", 64)
            fields.check_empty()
            self._hello(envelope, client_name, client, now)
            return
        fields.check_empty()
        if envelope.op == "heartbeat":
            self._require_lease(envelope, client, now)
            self._send(client, ok_reply(envelope, {}))
        elif envelope.op == "info":
            self._answer_info(envelope, client)
        else:
            known = "the control socket takes hello, heartbeat, info"
            raise BridgeError("a request's op must be known", envelope.op, known)

    def _hello(self, envelope: Envelope, client_name: str, client: ClientConnection, now: float) -> None:
        """Grant or renew a lease on all engines, then reply."""
        lease = self._leases.find(envelope.lease, client.key, now)
        if not self.pool.ready or (envelope.lease and not self.pool.complete):
            raise unavailable("a server's engines must be ready", 500)
        if lease is None:
            self._check_not_draining()
            lease = self._leases.grant(client.key, client_name, now, envelope.lease, client.identity.hex())
        gathered = GatheredReplies(
            len(self.pool.ready),
            on_success=lambda replies: self._send_hello(envelope, client, lease, replies),
            on_error=lambda error: self._send(client, error_reply(envelope, error)),
        )
        for engine in self.pool.engines:
            if engine.ready:
                self.pool.hello(engine, lease, gathered.of(engine))
            elif engine.process is not None:
                self.pool.hello(engine, lease, lambda _: None)

    def _send_hello(
        self, envelope: Envelope, client: ClientConnection, lease: Lease, replies: Replies
    ) -> None:
        for engine, reply in replies:
            self.pool.record_sessions(reply.header["sessions"], engine, lease.token)
        placements = self.pool.placements.items()
        last = {name: seq for _, reply in replies for name, seq in reply.header["sessions"].items()}
        sessions = {
            name: last.get(name, placement.seq)
            for name, placement in placements
            if placement.lease == lease.token
        }
        server_info = {
            name: value for name, value in replies[0][1].header.items() if name not in ("op", "id", "ok")
        }
        own = {"lease": lease.token, "ttl_s": self._leases.ttl, "limits": self.limits.to_dict()}
        self._send(client, ok_reply(envelope, {**server_info, **own, "sessions": sessions}))

    def _answer_info(self, envelope: Envelope, client: ClientConnection) -> None:
        engines = self.pool.ready
        if not engines:
            raise unavailable("a server's engines must be ready", 500)

        def tell(replies: Replies) -> None:
            total = sum_info([reply.header for _, reply in replies])
            values = {name: value for name, value in total.items() if name not in ("op", "id", "ok", "trace")}
            self._send(client, ok_reply(envelope, {**values, "draining": self._draining}))

        gathered = GatheredReplies(
            len(engines),
            on_success=tell,
            on_error=lambda error: self._send(client, error_reply(envelope, error)),
        )
        for engine in engines:
            self.pool.request(engine, {"op": "info"}, key="", on_reply=gathered.of(engine), control=True)

    def _forward(
        self,
        envelope: Envelope,
        message: Message,
        client: ClientConnection,
        now: float,
        reservation: Reservation,
    ) -> None:
        self._check_not_draining()
        if not client.has_room(envelope.session, self.limits.waiting):
            most = self.limits.waiting
            raise unavailable(f"a client may have {most} requests waiting, each session an equal part", 100)
        lease = self._require_lease(envelope, client, now)
        if envelope.op == "step_many":
            self._scatter(envelope, message, client, lease)
            return
        if envelope.op not in (*CREATING_OPS, *_SESSION_OPS):
            known = ", ".join((*CREATING_OPS, *_SESSION_OPS, "step_many"))
            raise BridgeError("a request's op must be known", envelope.op, f"the data socket takes {known}")
        name = str(message.header.get("session"))
        engine = self.pool.engine_of(name)
        if engine is None and envelope.op in CREATING_OPS:
            engine = self.pool.place(name, lease)
        if engine is None and envelope.op == "close" and self.pool.complete:
            self._send(client, ok_reply(envelope, {}))
            return
        if engine is None or not engine.ready:
            raise self.pool.not_found(name)
        self._start_request(client, lease, envelope.session)

        def answer(reply: Message | None, _: Reservation = reservation) -> None:
            self._finish_request(client, lease, envelope.session)
            self.pool.record_reply(message.header, lease, engine, reply)
            self._reply(client, envelope, reply)

        self.pool.request(engine, message.header, message.payloads, key=client.key, on_reply=answer)

    def _scatter(self, envelope: Envelope, message: Message, client: ClientConnection, lease: Lease) -> None:
        """Scatter a ``step_many`` to all engines that it concerns."""
        items = message.header.get("items")
        if not isinstance(items, list) or not 1 <= len(items) <= self.limits.items:
            rule = f"a step_many may have 1 to {self.limits.items} items"
            raise BridgeError(rule, type(items).__name__, "send several", code=Code.RESOURCE_EXHAUSTED)
        numbers = {
            name: placement.engine.number
            for name, placement in self.pool.placements.items()
            if placement.engine.ready
        }
        parts, missing = split_items(items, numbers)
        rows = {at: error_item(items[at], self.pool.not_found(str(_name(items[at])))) for at in missing}
        self._start_request(client, lease, envelope.session)

        def fail(error: BridgeError) -> None:
            self._finish_request(client, lease, envelope.session)
            self._send(client, error_reply(envelope, error))

        def join(replies: Replies) -> None:
            self._finish_request(client, lease, envelope.session)
            joined, payloads = join_steps(len(items), replies, rows)
            head = {"op": envelope.op, "id": envelope.id, "ok": True, "items": joined}
            head |= {} if envelope.trace is None else {"trace": envelope.trace}
            self._send(client, encode(head, payloads, REPLY))

        if not parts:
            join([])
            return
        gathered = GatheredReplies(len(parts), on_success=join, on_error=fail)
        for number, positions in parts.items():
            header = {**message.header, "items": [items[at] for at in positions]}
            engine = self.pool.engines[number]
            self.pool.request(
                engine, header, message.payloads, key=client.key, on_reply=gathered.of(positions)
            )

    def _start_request(self, client: ClientConnection, lease: Lease, session: str) -> None:
        client.start_request(session)
        lease.waiting += 1

    def _finish_request(self, client: ClientConnection, lease: Lease, session: str) -> None:
        client.finish_request(session)
        self._leases.release(lease.token, self.last_turn)

    def _reply(self, client: ClientConnection, envelope: Envelope, reply: Message | None) -> None:
        if reply is None:
            self._send(client, error_reply(envelope, unavailable("a session's engine must be ready", 500)))
        else:
            self._send(client, encode({**reply.header, "id": envelope.id}, reply.payloads, REPLY))

    def _check_not_draining(self) -> None:
        if self._draining:
            rule, remedy = "a server takes no requests at its end", "reconnect later"
            raise BridgeError(rule, None, remedy, code=Code.DRAINING)


def _name(item: Any) -> Any:
    return item.get("session") if isinstance(item, dict) else None
