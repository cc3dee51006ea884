"""What one client may have and hold, so that others have theirs."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq

from tests.bridge.scripted_client import EngineGate, ScriptedClient, name
from tests.tiny import lively_world
from worldsim.bridge.server import leases as leases_module
from worldsim.bridge.server import replies as replies_module
from worldsim.bridge.server import requests
from worldsim.bridge.server.leases import Leases
from worldsim.bridge.server.quotas import Quotas
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.bridge.server.sessions import Sessions
from worldsim.bridge.wire.protocol import MAGIC, ClientLimits, encode
from worldsim.engine.engine import Engine
from worldsim.engine.world import World, load
from worldsim.errors import BridgeError

SLOTS = 8
MIB = 2**20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(lively_world(tmp_path_factory.mktemp("world")), "cpu", torch.float32)


@pytest.fixture
def engine(world: World) -> Engine:
    return world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4)


@pytest.fixture
def server(engine: Engine, tmp_path: Path) -> Iterator[Server]:
    with Server(engine, ServerOptions(address=f"ipc://{tmp_path}/s")) as one:
        yield one
    assert one.fault is None


@pytest.fixture
def ask(server: Server) -> Iterator[Callable[..., ScriptedClient]]:
    clients: list[ScriptedClient] = []

    def connect(**options: bool) -> ScriptedClient:
        clients.append(ScriptedClient(server.address, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


Ask = Callable[..., ScriptedClient]


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something comes to be so."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def dealer(address: str) -> zmq.Socket[bytes]:
    release: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    release.linger, release.sndhwm, release.rcvhwm, release.sndtimeo = 0, 0, 1, 20_000
    release.connect(address)
    return release


def test_an_unfinished_message_is_cut_and_others_are_answered(server: Server, ask: Ask) -> None:
    hostile, honest = dealer(server.address), ask()
    before = server.sockets.budget.used
    for _ in range(8):
        hostile.send(bytes(8 * MIB), zmq.SNDMORE)
    assert honest.ask("info")["ok"]
    assert eventually(lambda: server.sockets.budget.used == before)
    assert server.sockets.budget.used <= 40 * MIB
    hostile.close()


def test_a_message_of_many_empty_parts_is_cut(server: Server, ask: Ask) -> None:
    honest = ask()
    with socket.socket(socket.AF_UNIX) as hostile:
        hostile.connect(server.address.removeprefix("ipc://"))
        hostile.settimeout(20)
        greeting = b"\xff" + bytes(7) + b"\x01\x7f\x03\x00NULL" + bytes(16 + 32)
        hostile.sendall(greeting + b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER")
        with pytest.raises(OSError, match=r"(?i)broken pipe|reset"):
            hostile.sendall(b"\x01\x00" * 5_000_000)
    assert honest.ask("info")["ok"]


def test_a_client_that_does_not_read_is_not_listened_to(server: Server, ask: Ask) -> None:
    honest, hostile = ask(), ask()
    session = hostile.open()
    hostile.ask("step", session=session, seq=1)
    hostile.data.close()
    mute = dealer(server.address)
    keys = {"op": "step", "lease": hostile.lease, "session": session, "seq": 1}
    for number in range(3000):
        mute.send_multipart(encode({**keys, "id": number}), zmq.DONTWAIT)
    assert eventually(lambda: server.sockets.unsent > MIB)
    assert honest.ask("info")["ok"]
    assert server.sockets.unsent < 4 * MIB
    mute.close()
    assert eventually(lambda: server.sockets.unsent == 0)


def test_a_step_is_asked_for_once_in_a_message(ask: Ask) -> None:
    client = ask()
    session = client.open()
    client.ask("step", session=session, seq=1)
    items = [{"session": session, "seq": 1}] * 256
    assert client.refusal("step_many", items=items) == "BAD_REQUEST"
    assert len(client.ask("step_many", items=items[:1])["items"]) == 1


def test_a_context_that_is_too_long_is_refused_before_it_is_copied(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []
    read = requests.read_context
    monkeypatch.setattr(requests, "read_context", lambda *given: copied.append(1) or read(*given))
    frames = np.zeros((145, 60, 80, 3), np.uint8)
    entry = {"dtype": "u1", "shape": list(frames.shape), "part": 0}
    client = ask()
    reply = client.ask("open", frames.tobytes(), session=name(), seed=0, context={"frames": entry})
    assert reply["error"]["code"] == "ENGINE"
    assert "at most" in reply["error"]["rule"]
    assert copied == []


def test_what_waits_has_a_bound_in_bytes(server: Server, engine: Engine, ask: Ask) -> None:
    gate, client, other = EngineGate(engine), ask(), ask()
    session, budget = client.open(), server.sockets.budget
    with gate.closed():
        client.send("step", session=session, seq=1)
        gate.await_step()
        ids = {client.send("restore", bytes(6 * MIB), session=name()) for _ in range(20)}
        assert eventually(lambda: budget.used > budget.per_client - 6 * MIB)
        assert other.ask("info")["ok"]
        other.send("open", session=name(), seed=0)
        assert budget.used <= budget.per_client
    replies = [client.receive().header for _ in range(21)]
    assert {reply["id"] for reply in replies} > ids
    assert {reply["error"]["code"] for reply in replies if not reply["ok"]} <= {"UNAVAILABLE", "ENGINE"}
    assert other.receive().header["ok"]
    assert eventually(lambda: budget.used == 0)


def test_a_picture_is_encoded_once(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    save = replies_module.Image.fromarray
    monkeypatch.setattr(replies_module.Image, "fromarray", lambda frame: encoded.append(1) or save(frame))
    client = ask()
    session = client.open()
    encoded.clear()
    pictures = {
        bytes(client.fetch("step", session=session, seq=1, codec="jpeg").payloads[0]) for _ in range(20)
    }
    assert len(pictures) == len(encoded) == 1


def test_one_connection_cannot_take_all_leases(ask: Ask) -> None:
    hostile = ask()
    codes = [hostile.ask("hello", client="x", lease=None).get("error", {}).get("code") for _ in range(70)]
    assert codes.count(None) == 63
    assert codes[-1] == "RESOURCE_EXHAUSTED"
    assert ask().lease


def test_a_full_server_takes_back_a_lease_without_sessions(
    ask: Ask, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "_MAX_LEASES", 6)
    hostile = ask()
    first = hostile.lease
    session = hostile.open()
    for _ in range(5):
        assert hostile.ask("hello", client="x", lease=None)["ok"]
    honest = ask()
    assert honest.open()
    assert hostile.ask("step", session=session, seq=1, lease=first)["ok"]
    others = [ask() for _ in range(4)]
    assert all(other.open() for other in others)
    with pytest.raises(KeyError):  # each has one by now
        ask()


def test_one_client_leaves_a_slot_for_each_other_one(ask: Ask) -> None:
    greedy, others = ask(), [ask(), ask(), ask()]
    refused = [greedy.ask("open", session=name(), seed=0).get("error", {}).get("code") for _ in range(8)]
    assert refused == [None] * 6 + ["UNAVAILABLE"] * 2
    assert others[0].open()
    assert others[1].open()
    assert others[2].refusal("open", session=name(), seed=0) == "UNAVAILABLE"


def test_opens_that_are_sent_together_are_counted(ask: Ask, engine: Engine) -> None:
    gate, greedy, other = EngineGate(engine), ask(), ask()
    session = greedy.open()
    with gate.closed():
        greedy.send("step", session=session, seq=1)
        gate.await_step()
        for _ in range(12):
            greedy.send("open", session=name(), seed=0)
        refused = [greedy.receive().header["error"]["code"] for _ in range(6)]
    assert refused == ["UNAVAILABLE"] * 6
    assert sum(greedy.receive().header["ok"] for _ in range(7)) == 7
    assert other.open()


def test_a_client_alone_has_all_slots_and_a_key_three_quarters() -> None:
    for authenticated, most in ((False, 8), (True, 6)):
        leases = Leases(ttl=10)
        quotas = Quotas(leases, Sessions(), 8, 256, authenticated=authenticated)
        both = [leases.grant("key", "", 0.0) for _ in range(2)]
        for number in range(most):
            quotas.reserve(both[number % 2], 1, 0.0)
        with pytest.raises(BridgeError) as caught:
            quotas.reserve(both[0], 1, 0.0)
        assert caught.value.code == ("RESOURCE_EXHAUSTED" if authenticated else "UNAVAILABLE")
        quotas.release(both[0].token, 1)
        quotas.reserve(both[1], 1, 0.0)


@pytest.mark.slow
def test_a_pause_of_the_server_is_no_silence_of_its_clients(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(engine, ServerOptions(address=f"ipc://{tmp_path}/s", lease_ttl=2.0)) as server:
        clients = [ScriptedClient(server.address) for _ in range(3)]
        sessions = [client.open() for client in clients]
        poll = server.sockets.poll
        late = iter([6.0])
        monkeypatch.setattr(
            server.sockets, "poll", lambda seconds: (time.sleep(next(late, 0.0)), poll(seconds))
        )
        time.sleep(6.5)
        for client, session in zip(clients, sessions, strict=True):
            assert client.ask("step", session=session, seq=1)["ok"]
            client.close()


def test_malformed_headers_are_not_charged_for(server: Server, ask: Ask) -> None:
    client = ask()
    assert client.raw(MAGIC, b"\xc1" * 60_000)["error"]["code"] == "BAD_REQUEST"
    assert eventually(lambda: server.sockets.budget.used == 0)
    assert ClientLimits().header == 64 * 1024
