"""Forwarder of a router: grants leases on all engines, and passes requests and replies on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldsim.bridge.router.engine_pool import CREATING_OPS, EnginePool
from worldsim.bridge.router.engine_process import EngineProcess
from worldsim.bridge.router.scatter_gather import (
    GatheredReplies,
    Replies,
    error_item,
    join_steps,
    split_items,
    sum_info,
    unavailable,
)
from worldsim.bridge.server.incoming_message import IncomingMessage
from worldsim.bridge.server.io_loop import IoLoop
from worldsim.bridge.server.leases import Lease, Leases, unpack_records
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.replies import error_reply, ok_reply
from worldsim.bridge.wire.protocol import REPLY, ClientLimits, Code, Message, decode, encode, parse_error
from worldsim.errors import BridgeError

__all__ = ["Forwarder"]

_HEARTBEAT_SECONDS = 0.5
"""Seconds between two renewals of all leases on all engines; an engine that hears nothing for a second takes
it for a pause of its own, in which no lease ends."""
_SESSION_OPS = ("step", "step_chunk", "rewind", "observe", "fork", "snapshot", "close")
_STEP_OPS = ("step", "step_many", "step_chunk")
_FIRST_STEP_SECONDS = 0.1
"""Assumed duration of a step before the first one."""
_SMOOTH = 0.1
_RESTART_MS = 500.0
"""Delay of a retry while an engine is not ready."""


class Forwarder:
    """Handler of a router's loop; used by its thread.

    Args:
        loop: sends the replies.
        pool: the engines, with the placements of all sessions.
        leases: owned by the forwarder.
        limits: of one client.
        metrics: counters.
    """

    def __init__(
        self, loop: IoLoop, pool: EnginePool, leases: Leases, limits: ClientLimits, metrics: ServerMetrics
    ) -> None:
        self._loop, self._pool, self._leases = loop, pool, leases
        self._limits, self._metrics = limits, metrics
        self._settled = False
        """True once all engines have listed their leases."""
        self._last_heartbeat = 0.0
        self.step_seconds = _FIRST_STEP_SECONDS
        """Smoothed time from the arrival of a step to its reply."""

    @property
    def capacity(self) -> int:
        """Number of open sessions: the router does not know for how many its engines have room."""
        return len(self._pool.placements)

    @property
    def has_work(self) -> bool:
        """True if replies of engines are still to come."""
        return self._pool.waiting > 0

    def on_poll(self, now: float) -> None:
        """Pass on the replies of the engines."""
        self._leases.record_poll(now)
        self._pool.receive()

    def on_control(self, message: IncomingMessage) -> None:
        """Answer ``hello``, ``heartbeat`` or ``info``."""
        envelope, fields = message.envelope, message.fields
        if envelope.op == "hello":
            client_name = fields.string("client", 64)
            fields.check_empty()
            self._hello(message, client_name)
        elif envelope.op == "heartbeat":
            fields.check_empty()
            self._require_lease(message)
            self._loop.send(message.connection, ok_reply(envelope, {}))
        elif envelope.op == "info":
            fields.check_empty()
            self._answer_info(message)
        else:
            known = "the control socket takes hello, heartbeat, info"
            raise BridgeError("a request's op must be known", envelope.op, known)
        self._metrics.count_request(envelope.op)

    def on_request(self, message: IncomingMessage) -> None:
        """Forward a request to its session's engine, or scatter it to several."""
        lease, op = self._require_lease(message), message.envelope.op
        header = message.header or decode(message.parts).header
        if op == "step_many":
            self._scatter(message, header, lease)
        elif op in (*CREATING_OPS, *_SESSION_OPS):
            self._forward(message, header, lease)
        else:
            known = ", ".join((*CREATING_OPS, *_SESSION_OPS, "step_many"))
            raise BridgeError("a request's op must be known", op, f"the data socket takes {known}")
        self._metrics.count_request(op)

    def on_turn(self) -> None:
        """Do nothing: requests were forwarded one by one."""

    def on_maintenance(self, now: float) -> None:
        """Forget expired leases, renew the others, and look after the engines."""
        for lease in self._leases.expire(now):
            self._pool.forget_lease(lease)
        self._pool.maintain(now, lambda: iter(self._leases), self._take_in_leases)
        self._settled = self._settled or self._pool.complete
        if now - self._last_heartbeat > _HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            self._pool.send_heartbeats(iter(self._leases))

    def _take_in_leases(self, packed: bytes) -> list[Lease]:
        """Add the leases that an engine has; return those that were unknown."""
        new = [record for record in unpack_records(packed) if record["lease"] not in self._leases]
        for record in new:
            self._leases.recover(record, self._loop.last_turn)
        tokens = {record["lease"] for record in new}
        return [lease for lease in self._leases if lease.token in tokens]

    def _require_lease(self, message: IncomingMessage) -> Lease:
        """Return the lease of a request; an unknown one may be alive until all engines have listed theirs."""
        token = message.envelope.lease
        if token not in self._leases and not self._settled:
            raise _engines_not_ready()
        return self._leases.require(token, message.key, message.arrived)

    def _hello(self, message: IncomingMessage, client_name: str) -> None:
        """Grant or renew a lease on all engines, then reply."""
        old, key, now = message.envelope.lease, message.key, message.arrived
        lease = self._leases.find(old, key, now)
        if not self._pool.ready or (old and not self._pool.complete):
            raise _engines_not_ready()
        if lease is None:
            self._loop.check_not_draining()
            lease = self._leases.grant(key, client_name, now, old, message.connection.identity.hex())
        gathered = GatheredReplies(
            len(self._pool.ready),
            on_success=lambda replies: self._send_hello(message, lease, replies),
            on_error=lambda error: self._loop.refuse(message, error),
        )
        for engine in self._pool.engines:
            if engine.ready:
                self._pool.hello(engine, lease, gathered.of(engine))
            elif engine.process is not None:
                self._pool.hello(engine, lease, lambda _: None)

    def _send_hello(self, message: IncomingMessage, lease: Lease, replies: Replies) -> None:
        for engine, reply in replies:
            self._pool.record_sessions(reply.header["sessions"], engine, lease.token)
        last = {name: seq for _, reply in replies for name, seq in reply.header["sessions"].items()}
        sessions = {
            name: last.get(name, placement.seq)
            for name, placement in self._pool.placements.items()
            if placement.lease == lease.token
        }
        server_info = {
            name: value for name, value in replies[0][1].header.items() if name not in ("op", "id", "ok")
        }
        own = {"lease": lease.token, "ttl_s": self._leases.ttl, "limits": self._limits.to_dict()}
        values = {**server_info, **own, "sessions": sessions}
        try:
            parts = ok_reply(message.envelope, values)
        except BridgeError as error:
            parts = error_reply(message.envelope, error)
        self._loop.send(message.connection, parts)

    def _answer_info(self, message: IncomingMessage) -> None:
        engines = self._pool.ready
        if not engines:
            raise _engines_not_ready()

        def tell(replies: Replies) -> None:
            total = sum_info([reply.header for _, reply in replies])
            values = {name: value for name, value in total.items() if name not in ("op", "id", "ok", "trace")}
            values["draining"] = self._loop.draining
            self._loop.send(message.connection, ok_reply(message.envelope, values))

        gathered = GatheredReplies(
            len(engines), on_success=tell, on_error=lambda error: self._loop.refuse(message, error)
        )
        for engine in engines:
            self._pool.request(engine, {"op": "info"}, key="", on_reply=gathered.of(engine), control=True)

    def _forward(self, message: IncomingMessage, header: dict[str, Any], lease: Lease) -> None:
        """Forward a request about one session."""
        name, op = str(header.get("session")), message.envelope.op
        is_new = op in CREATING_OPS and self._pool.engine_of(name) is None
        engine = self._engine_of(message, name, lease)
        if engine is None:  # it is closed already
            self._loop.finish(message.connection, message.envelope.session)
            self._loop.send(message.connection, ok_reply(message.envelope, {}))
            return
        if op == "fork":
            self._pool.check_children(header.get("children"), engine, lease)

        def answer(reply: Message | None) -> None:
            self._finish(message, lease)
            self._pool.record_reply(header, lease, engine, reply, is_new)
            if reply is None:
                self._loop.refuse(message, unavailable("a session's engine must be ready", _RESTART_MS))
            elif not reply.header["ok"]:
                self._loop.refuse(message, parse_error(reply.header["error"]))
            else:
                self._send(message, {**reply.header, "id": message.envelope.id}, reply.payloads)

        self._pool.request(engine, header, message.payloads, key=message.key, on_reply=answer)
        lease.waiting += 1

    def _engine_of(self, message: IncomingMessage, name: str, lease: Lease) -> EngineProcess | None:
        """Return the engine of a request about one session, chosen now for a new session.

        None for the ``close`` of a session that no engine has.
        """
        op, engine = message.envelope.op, self._pool.engine_of(name)
        if engine is None and op in CREATING_OPS:
            engine = self._pool.place(name, lease)
        if engine is None and op == "close" and self._pool.complete:
            return None
        if engine is None or not engine.ready:
            raise self._pool.not_found(name)
        return engine

    def _scatter(self, message: IncomingMessage, header: dict[str, Any], lease: Lease) -> None:
        """Scatter a ``step_many`` to all engines that it concerns."""
        items = self._items(message, header)
        names = {name for item in items if isinstance(name := _name(item), str)}
        engines = {name: engine for name in names if (engine := self._pool.engine_of(name)) is not None}
        numbers = {name: engine.number for name, engine in engines.items() if engine.ready}
        parts, missing = split_items(items, numbers)
        rows = {at: error_item(items[at], self._pool.not_found(str(_name(items[at])))) for at in missing}

        def fail(error: BridgeError) -> None:
            self._finish(message, lease)
            self._loop.refuse(message, error)

        def join(replies: Replies) -> None:
            self._finish(message, lease)
            joined, payloads = join_steps(len(items), replies, rows)
            envelope = message.envelope
            head = {"op": envelope.op, "id": envelope.id, "ok": True, "items": joined}
            head |= {} if envelope.trace is None else {"trace": envelope.trace}
            self._send(message, head, payloads)

        if not parts:
            lease.waiting += 1
            join([])
            return
        gathered = GatheredReplies(len(parts), on_success=join, on_error=fail)
        for number, positions in parts.items():
            some = {**header, "items": [items[at] for at in positions]}
            engine = self._pool.engines[number]
            self._pool.request(engine, some, key=message.key, on_reply=gathered.of(positions))
        lease.waiting += 1

    def _items(self, message: IncomingMessage, header: dict[str, Any]) -> list[Any]:
        """Return the items of a ``step_many``; payloads are refused, as each engine would have a copy."""
        if message.payloads:
            raise BridgeError("this request may have 0 payloads", len(message.payloads))
        items = header.get("items")
        if not isinstance(items, list) or not 1 <= len(items) <= self._limits.items:
            rule = f"a step_many may have 1 to {self._limits.items} items"
            raise BridgeError(rule, type(items).__name__, "send several", code=Code.RESOURCE_EXHAUSTED)
        return items

    def _finish(self, message: IncomingMessage, lease: Lease) -> None:
        """Count a forwarded request as answered."""
        now = self._loop.last_turn
        self._loop.finish(message.connection, message.envelope.session)
        self._leases.release(lease.token, now)
        if message.envelope.op in _STEP_OPS:
            self.step_seconds += _SMOOTH * (now - message.arrived - self.step_seconds)

    def _send(self, message: IncomingMessage, header: dict[str, Any], payloads: Sequence[Any]) -> None:
        """Send a reply, or an error in place of one that is too large."""
        try:
            parts = encode(header, payloads, REPLY)
        except BridgeError as error:
            parts = error_reply(message.envelope, error)
        self._loop.send(message.connection, parts)


def _engines_not_ready() -> BridgeError:
    return unavailable("a server's engines must be ready", _RESTART_MS)


def _name(item: Any) -> Any:
    return item.get("session") if isinstance(item, dict) else None
