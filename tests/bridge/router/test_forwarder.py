"""A router's forwarder over engines that are played by the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from worldsim.bridge.router.engine_pool import EnginePool, Placement
from worldsim.bridge.router.engine_process import EngineProcess
from worldsim.bridge.router.forwarder import Forwarder
from worldsim.bridge.server.connections import ConnectionTable
from worldsim.bridge.server.incoming_message import IncomingMessage
from worldsim.bridge.server.io_loop import IoLoop
from worldsim.bridge.server.leases import Lease, Leases
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.sockets import Sockets
from worldsim.bridge.wire.protocol import MAGIC, ClientLimits, Message, decode, error_body
from worldsim.bridge.wire.zmtp import MemoryBudget
from worldsim.errors import BridgeError

SESSIONS = ("1" * 32, "2" * 32)
TTL = 5.0
LIMITS = ClientLimits(malformed=2)


class Stage:
    """A forwarder with a lease and a session on each of two engines; nothing runs."""

    def __init__(self, folder: Path) -> None:
        self.sockets = Sockets(f"ipc://{folder}/s")
        self.loop = IoLoop(self.sockets, LIMITS, ServerMetrics(), drain_seconds=1.0)
        self.pool = EnginePool([["serve"], ["serve"]], None, self.sockets)
        self.leases = Leases(TTL)
        self.forwarder = Forwarder(self.loop, self.pool, self.leases, LIMITS, ServerMetrics())
        self.lease = self.leases.grant("", "x", 0.0)
        self.forwarded: list[tuple[int, dict[str, Any]]] = []
        self.sent: list[dict[str, Any]] = []
        for engine, session in zip(self.pool.engines, SESSIONS, strict=True):
            engine.mark_ready({})
            self.pool.placements[session] = Placement(engine, self.lease.token)
        self.connection = ConnectionTable(1, LIMITS.malformed).lookup(False, b"a", "", 0.0)

    def ask(self, op: str, *payloads: bytes, **keys: Any) -> None:
        header = {"op": op, "id": 7, "lease": self.lease.token, **keys}
        reservation = MemoryBudget(1, 1).open_reservation("")
        message = IncomingMessage(
            [MAGIC, msgpack.packb(header), *payloads], self.connection, 0.0, reservation
        )
        message.open(behind_router=False)
        self.loop.waiting += 1
        self.connection.start_request(message.envelope.session)
        self.forwarder.on_request(message)

    def reply(self, **fields: Any) -> None:
        """Let the engine reply to the oldest request."""
        number = min(self.pool._pending)
        self.pool._pending.pop(number)[1](Message({"op": "step", "id": number, **fields}))

    def codes(self) -> list[str]:
        """The codes of the refusals that are about to be sent."""
        return [decode(parts).header["error"]["code"] for _, parts in self.loop._refusals]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage(tmp_path)

    def forward(engine: EngineProcess, header: dict[str, Any], *_: object, **__: object) -> None:
        stage.forwarded.append((engine.number, dict(header)))

    monkeypatch.setattr(EngineProcess, "send", forward)
    monkeypatch.setattr(stage.loop, "send", lambda _, parts: stage.sent.append(decode(parts).header))
    yield stage
    stage.loop._wake_pipe.close()
    stage.sockets.close()
    stage.pool.close()


def test_what_an_engine_finds_malformed_counts_as_its_clients(stage: Stage) -> None:
    error = error_body(BridgeError("a rewind must go back"))
    for _ in range(4):
        stage.ask("rewind", session=SESSIONS[0], seq=1, frames=0)
        stage.reply(ok=False, error=error)
    assert stage.codes() == ["BAD_REQUEST"] * LIMITS.malformed
    assert stage.loop._flood.end_turn(0.0) > 0
    assert (stage.loop.waiting, stage.connection.in_flight_total, stage.lease.waiting) == (0, 0, 0)


def test_payloads_of_many_steps_are_not_copied_for_each_engine(stage: Stage) -> None:
    items = [{"session": session, "seq": 1} for session in SESSIONS]
    with pytest.raises(BridgeError, match="payloads"):
        stage.ask("step_many", b"x", items=items)
    assert stage.forwarded == []
    stage.ask("step_many", items=items)
    assert [number for number, _ in stage.forwarded] == [0, 1]


def test_the_time_of_steps_says_when_to_retry(stage: Stage) -> None:
    first = stage.forwarder.step_seconds
    stage.loop.last_turn = 2.0
    stage.ask("step", session=SESSIONS[0], seq=1)
    stage.reply(ok=True, step={"seq": 1})
    assert first < stage.forwarder.step_seconds < 2.0
    assert stage.sent[0]["id"] == 7
    assert stage.pool.placements[SESSIONS[0]].seq == 1


def test_a_session_that_is_closed_already_waits_for_no_engine(stage: Stage) -> None:
    stage.ask("close", session="3" * 32)
    assert stage.sent[0]["ok"]
    assert (stage.loop.waiting, stage.connection.in_flight_total, stage.lease.waiting) == (0, 0, 0)


def test_an_engine_ends_a_lease_that_the_router_renews_no_longer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own leases, which hear of nothing but the router's heartbeats."""
    at_engine, now = Leases(TTL), 100.0
    monkeypatch.setattr(stage.pool, "maintain", lambda *_: None)
    for lease in (stage.pool._own_lease, stage.lease):
        at_engine.grant("", "x", now, token=lease.token)
    stage.leases.end(stage.lease)

    def heartbeat(_: EngineProcess, header: dict[str, Any], *, control: bool) -> None:
        at_engine.record_poll(now)
        at_engine.find(header["lease"], "", now)

    monkeypatch.setattr(EngineProcess, "send", heartbeat)
    ended: list[Lease] = []
    while now < 100.0 + 2 * TTL:
        now += 0.051
        stage.forwarder.on_maintenance(now)
        ended += at_engine.expire(now)
    assert [lease.token for lease in ended] == [stage.lease.token]


def refused(code: str = "BAD_REQUEST") -> dict[str, Any]:
    return {"ok": False, "error": {**error_body(BridgeError("an open must fit")), "code": code}}


def test_a_session_that_an_engine_refuses_is_not_kept(stage: Stage) -> None:
    """Names of refused sessions would pile up for as long as the lease lives."""
    for number in range(40):
        stage.ask("open", session=f"{number:032x}")
        stage.reply(**refused())
    stage.ask("open", session="\U0001f30d" * 32)  # no engine takes such a name
    assert set(stage.pool.placements) == set(SESSIONS)


def test_a_refused_repetition_leaves_the_session_where_it_is(stage: Stage) -> None:
    stage.ask("open", session=SESSIONS[1], seed=9)  # it is there already, with another seed
    stage.reply(**refused())
    assert set(stage.pool.placements) == set(SESSIONS)
    name = "3" * 32
    stage.ask("open", session=name)
    stage.ask("open", session=name, seed=1)
    stage.reply(**refused())
    assert name not in stage.pool.placements
    stage.reply(ok=True)
    assert name in stage.pool.placements


def test_a_fork_takes_no_session_from_another_lease(stage: Stage) -> None:
    other = stage.leases.grant("", "y", 0.0)
    theirs = "4" * 32
    stage.pool.placements[theirs] = Placement(stage.pool.engines[1], other.token)
    for children in ([theirs], ["5" * 32, theirs], [SESSIONS[1]]):
        with pytest.raises(BridgeError, match="children must all be new"):
            stage.ask("fork", session=SESSIONS[0], seq=0, children=children)
    assert stage.forwarded == []
    assert stage.pool.placements[theirs].lease == other.token
    stage.ask("fork", session=SESSIONS[0], seq=0, children=["5" * 32])
    stage.reply(ok=True)
    assert stage.pool.placements["5" * 32].engine is stage.pool.engines[0]


def test_a_hello_that_is_too_long_is_an_error_of_its_own(stage: Stage) -> None:
    engine = stage.pool.engines[0]
    for number in range(9000):
        stage.pool.placements[f"{number:032x}"] = Placement(engine, stage.lease.token)
    reply = Message({"op": "hello", "id": 1, "ok": True, "sessions": {}})
    stage.ask("step", session=SESSIONS[0], seq=1)
    message = IncomingMessage(
        [MAGIC, msgpack.packb({"op": "hello", "id": 8, "lease": stage.lease.token})],
        stage.connection,
        0.0,
        MemoryBudget(1, 1).open_reservation(""),
    )
    message.open(behind_router=False)
    stage.forwarder._send_hello(message, stage.lease, [(engine, reply)])
    assert stage.sent[-1]["error"]["code"] == "RESOURCE_EXHAUSTED"


def test_a_fault_in_one_reply_leaves_the_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, taken = stage.pool.engines[0], list[int]()

    def fail(_: Message | None) -> None:
        raise RuntimeError("out of luck")

    stage.pool.request(engine, {"op": "info"}, key="", on_reply=fail)
    stage.pool.request(engine, {"op": "info"}, key="", on_reply=lambda _: taken.append(1))
    replies = [Message({"id": number, "ok": True}) for number in stage.pool._pending]
    monkeypatch.setattr(EngineProcess, "receive", lambda one: iter(replies if one is engine else ()))
    stage.pool.receive()
    assert taken == [1]


def test_an_engine_without_room_for_a_process_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr("worldsim.bridge.router.engine_process.subprocess.Popen", full)
    stage.pool.maintain(0.0, lambda: iter(()), lambda _: [])
    assert not any(engine.ready for engine in stage.pool.engines)
    assert not any(engine.restart_due(0.0) for engine in stage.pool.engines)
    assert all(engine.restart_due(1e6) for engine in stage.pool.engines)
