"""The loop of server and router: whom it refuses, and what a flood may cost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.waiting import PATIENCE
from worldsim.bridge.server.incoming_message import IncomingMessage
from worldsim.bridge.server.io_loop import IoLoop
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.sockets import ReceivedMessage, Sockets
from worldsim.bridge.wire.protocol import MAGIC, ClientLimits, decode
from worldsim.bridge.wire.zmtp import MemoryBudget
from worldsim.errors import BridgeError

LEASE = "0" * 32
MIB = 2**20


class ScriptedSockets:
    """Sockets that receive what they were told to, and note what is sent; the loop ends after the last."""

    def __init__(self) -> None:
        self.incoming: list[ReceivedMessage] = []
        self.sent: list[dict[str, Any]] = []
        self.budget = MemoryBudget(64 * MIB, 24 * MIB)
        self.turns: list[int] = []
        self.pauses = self.unsent = 0
        self.when_empty: Callable[[], None] = lambda: None

    def add(self, *parts: bytes, client: bytes = b"a", control: bool = False) -> None:
        reservation = self.budget.open_reservation(client.hex())
        self.incoming.append(ReceivedMessage(control, client, "", list(parts), reservation))

    def ask(self, number: int, op: str = "step", client: bytes = b"a", *payloads: bytes, **keys: Any) -> None:
        header = {"op": op, "id": number, "lease": LEASE, **keys}
        self.add(MAGIC, msgpack.packb(header), *payloads, client=client)

    def watch(self, other: object) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def poll(self, seconds: float) -> None:
        self.turns.append(0)
        if not self.incoming:
            self.when_empty()

    def pause(self, seconds: float) -> None:
        self.pauses += 1

    def ready(self, other: object) -> bool:
        return False

    def receive(self, *, control: bool) -> ReceivedMessage | None:
        at = next((at for at, one in enumerate(self.incoming) if one.control is control), None)
        self.turns[-1] += at is not None
        return None if at is None else self.incoming.pop(at)

    def send(self, identity: bytes, parts: list[Any], *, control: bool) -> bool:
        self.sent.append(decode(parts).header)
        return True

    def codes(self) -> list[str]:
        """The codes of all refusals sent."""
        return [reply["error"]["code"] for reply in self.sent if not reply["ok"]]


class Holder:
    """Handler that answers nothing until it is told to, and refuses what is called ``bad``."""

    capacity, step_seconds, has_work = 1, 0.0, False

    def __init__(self) -> None:
        self.taken: list[IncomingMessage] = []

    def on_poll(self, now: float) -> None: ...

    def on_turn(self) -> None: ...

    def on_maintenance(self, now: float) -> None: ...

    def on_control(self, message: IncomingMessage) -> None:
        self.taken.append(message)

    def on_request(self, message: IncomingMessage) -> None:
        if message.envelope.op == "bad":
            raise BridgeError("a request must be good")
        if message.envelope.op == "fault":
            raise ValueError("a fault")
        self.taken.append(message)


@pytest.fixture
def sockets() -> ScriptedSockets:
    return ScriptedSockets()


def run(sockets: ScriptedSockets, handler: Holder, **limits: int) -> IoLoop:
    """Run a loop until all messages are read."""
    told = ClientLimits(**limits)  # type: ignore[arg-type]
    loop = IoLoop(sockets, told, ServerMetrics(), drain_seconds=1.0)
    sockets.when_empty = loop.stop
    loop.run(handler)
    return loop


def test_a_flood_gets_few_messages_a_turn_and_a_pause_after_each(sockets: ScriptedSockets) -> None:
    for _ in range(40):
        sockets.add(b"nonsense")
        sockets.add(b"nonsense", control=True)
    for number in range(4):
        sockets.ask(number, client=b"b", session="1" * 32)
    handler = Holder()
    run(sockets, handler, malformed=3)
    assert [message.envelope.id for message in handler.taken] == [0, 1, 2, 3]
    assert max(sockets.turns) == 8
    assert sockets.pauses == 10
    assert sockets.codes() == ["BAD_REQUEST"] * 6  # three of each connection


def test_large_requests_that_wait_have_a_bound_in_bytes(sockets: ScriptedSockets) -> None:
    handler = Holder()
    for number in range(10):
        sockets.ask(number, "observe", b"a", bytes(8 * MIB), session="1" * 32)
    sockets.ask(10, "observe", b"b", bytes(8 * MIB), session="2" * 32)
    loop = run(sockets, handler)
    assert [message.envelope.id for message in handler.taken] == [0, 1, 2, 10]
    assert sockets.codes() == ["UNAVAILABLE"] * 7
    assert all(reply["error"]["retry_after_ms"] >= 10 for reply in sockets.sent)
    assert loop.waiting == 4
    assert sockets.budget.used == 4 * 8 * MIB
    handler.taken.clear()
    assert sockets.budget.used == 0


def test_long_headers_are_charged_as_they_are_when_parsed(sockets: ScriptedSockets) -> None:
    handler = Holder()
    for number in range(40):
        sockets.ask(number, "step_many", text="x" * 60_000)
    run(sockets, handler)
    assert len(handler.taken) == 26
    assert set(sockets.codes()) == {"UNAVAILABLE"}


def test_what_all_clients_may_have_waiting_grows_with_the_sessions(sockets: ScriptedSockets) -> None:
    for capacity, most in ((1, 1024), (200, 1600)):
        handler = Holder()
        handler.capacity = capacity
        for number in range(1700):
            client = (number % 50).to_bytes(2, "big")
            sockets.ask(number, client=client, session="1" * 32)
        run(sockets, handler)
        assert len(handler.taken) == most


def test_a_request_that_is_refused_or_fails_waits_no_longer(sockets: ScriptedSockets) -> None:
    handler = Holder()
    for number, op in enumerate(("bad", "fault", "good")):
        sockets.ask(number, op, session="1" * 32)
    loop = run(sockets, handler)
    assert (loop.waiting, sockets.codes()) == (1, ["BAD_REQUEST"])
    (message,) = handler.taken
    assert message.connection.in_flight_total == 1
    loop.finish(message.connection, message.envelope.session)
    assert (loop.waiting, message.connection.in_flight_total) == (0, 0)


def test_a_control_request_has_no_payloads(sockets: ScriptedSockets) -> None:
    header = msgpack.packb({"op": "info", "id": 1})
    sockets.add(MAGIC, header, b"more", control=True)
    sockets.add(MAGIC, header, control=True)
    handler = Holder()
    run(sockets, handler)
    assert len(handler.taken) == 1
    assert sockets.codes() == ["BAD_REQUEST"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_pause_ends_when_a_watched_object_is_readable(tmp_path: Path, pipe: tuple[int, int]) -> None:
    sockets, (reader, writer) = Sockets(f"ipc://{tmp_path}/s"), pipe
    sockets.watch(reader)
    pause = threading.Thread(target=sockets.pause, args=(10 * PATIENCE,), daemon=True)
    pause.start()
    os.write(writer, b"\0")
    pause.join(PATIENCE)
    assert not pause.is_alive()
    sockets.close()
