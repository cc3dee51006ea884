"""A server of a tiny world, asked over its sockets."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError

import msgpack
import numpy as np
import pytest
import torch

from tests.bridge.scripted_client import EngineGate, ScriptedClient, name
from tests.tiny import lively_world
from tests.waiting import wait_until
from worldsim.bridge.server import server as server_module
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.bridge.server.sockets import ReceivedMessage, Sockets
from worldsim.bridge.wire.protocol import MAGIC, ClientLimits, control_address, describe, read_array
from worldsim.engine.engine import Engine
from worldsim.engine.world import World, load
from worldsim.errors import BridgeError

SLOTS = 4
FORWARD = {"keys": ["forward"]}
Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(lively_world(tmp_path_factory.mktemp("world")), "cpu", torch.float32)


@pytest.fixture
def engine(world: World) -> Engine:
    return world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4)


@pytest.fixture
def serve(engine: Engine, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers with options of one's own; they end with the test."""
    servers: list[Server] = []

    def start(engine: Engine = engine, **options: object) -> Server:
        servers.append(Server(engine, ServerOptions(**{"address": f"ipc://{tmp_path}/s", **options})))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        assert server.fault is None


@pytest.fixture
def ask(serve: Serve) -> Iterator[Callable[..., ScriptedClient]]:
    """Clients of servers; they end with the test."""
    clients: list[ScriptedClient] = []

    def connect(server: Server | None = None, **options: bool) -> ScriptedClient:
        clients.append(ScriptedClient((server or serve()).address, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


Ask = Callable[..., ScriptedClient]


def test_hello_tells_all_that_a_client_needs(ask: Ask, world: World) -> None:
    hello = ask().ask("hello", client="x")
    assert hello["world"] == world.name
    assert hello["size"] == [60, 80]
    assert hello["keys"] == list(world.spec.control_space.keys)
    assert hello["latent"] == list(world.networks.tokenizer.latent_spec.shape)
    assert (hello["starts"], hello["denoising_steps"], hello["sessions"]) == (2, 1, {})
    assert hello["limits"] == ClientLimits().to_dict()
    assert len(hello["lease"]) == 32


def test_a_repeated_seq_is_answered_from_memory(ask: Ask) -> None:
    client = ask()
    session = client.open()
    replies = [client.fetch("step", session=session, seq=seq, control=FORWARD) for seq in range(1, 11)]
    for seq in range(3, 11):
        again = client.fetch("step", session=session, seq=seq, control={})
        assert again.payloads == replies[seq - 1].payloads
        assert again.header["step"] == replies[seq - 1].header["step"]
    for seq in (2, 12):
        error = client.ask("step", session=session, seq=seq)["error"]
        assert (error["code"], error["value"]) == ("OUT_OF_ORDER", "10")
    assert client.ask("step", session=session, seq=11)["step"]["seq"] == 11


@pytest.mark.parametrize("codec", ["raw", "jpeg", "latent"])
def test_the_same_step_is_the_same_bytes(ask: Ask, codec: str) -> None:
    client = ask()
    session = client.open()
    first, again = (client.fetch("step", session=session, seq=1, codec=codec) for _ in range(2))
    assert first.payloads == again.payloads


def test_what_was_not_seen_cannot_be_seen_later(ask: Ask) -> None:
    client = ask()
    session = client.open()
    client.ask("step", session=session, seq=1, codec="none")
    assert client.ask("step", session=session, seq=1)["step"]["frame"] is None
    items = client.ask("step_many", items=[{"session": session, "seq": 1}])["items"]
    assert items[0]["error"]["code"] == "BAD_REQUEST"


def test_requests_that_make_sessions_can_be_repeated(ask: Ask) -> None:
    client = ask()
    session, children = name(), [name(), name()]
    opened = [client.fetch("open", session=session, seed=3) for _ in range(2)]
    assert opened[0].payloads == opened[1].payloads
    assert client.refusal("open", session=session, seed=4) == "BAD_REQUEST"
    client.ask("step", session=session, seq=1)
    forked = [client.ask("fork", session=session, seq=1, children=children) for _ in range(2)]
    assert forked[0]["step"] == forked[1]["step"]
    assert client.refusal("fork", session=session, seq=1, children=[children[0], name()]) == "BAD_REQUEST"
    blob = client.fetch("snapshot", session=session).payloads[0]
    restored = name()
    assert all(client.ask("restore", blob, session=restored)["ok"] for _ in range(2))
    assert client.refusal("restore", blob + b"x", session=restored) == "BAD_REQUEST"
    assert all(client.ask("close", session=session)["ok"] for _ in range(2))


def test_given_frames_begin_a_session(ask: Ask, world: World) -> None:
    client, start, session = ask(), world.starts[0], name()
    arrays = [start.frames, start.controls, start.poses]
    entries = dict(zip(("frames", "controls", "poses"), map(describe, arrays, range(3)), strict=True))
    payloads = [array.tobytes() for array in arrays]
    reply = client.fetch("open", *payloads, session=session, seed=0, context=entries)
    np.testing.assert_array_equal(read_array(reply.header["step"]["frame"], reply.payloads), start.frames[-1])
    wrong = {**entries, "frames": {**entries["frames"], "part": 1}}
    assert client.refusal("open", *payloads, session=name(), seed=0, context=wrong) == "BAD_REQUEST"
    assert client.refusal("open", *payloads, session=name(), seed=0) == "BAD_REQUEST"


def test_all_that_wait_go_in_one_batch(ask: Ask, serve: Serve, engine: Engine) -> None:
    gate = EngineGate(engine)
    server = serve()
    clients = [ask(server) for _ in range(SLOTS)]
    sessions = [client.open(seed) for seed, client in enumerate(clients)]
    with gate.closed():
        clients[0].send("step", session=sessions[0], seq=1)
        gate.await_step()
        for client, session in zip(clients[1:], sessions[1:], strict=True):
            client.send("step", session=session, seq=1)
        clients[0].send("step", session=sessions[0], seq=2)
        wait_until(lambda: server.info()["waiting"] == SLOTS + 1, "all requests wait")
    seqs = [clients[0].receive().header["step"]["seq"], clients[0].receive().header["step"]["seq"]]
    assert seqs == [1, 2]
    for client in clients[1:]:
        assert client.receive().header["ok"]
    assert gate.batches == [1, SLOTS]


def test_late_is_said_and_uses_up_no_seq(ask: Ask, serve: Serve, engine: Engine) -> None:
    gate = EngineGate(engine)
    client = ask(serve())
    session, other = client.open(), client.open()
    with gate.closed():
        client.send("step", session=session, seq=1)
        gate.await_step()
        client.send("step", session=other, seq=1, deadline_ms=0.001)
        client.ask("info")
    assert client.receive().header["ok"]
    assert client.receive().header["error"]["code"] == "DEADLINE_EXCEEDED"
    assert client.ask("step", session=other, seq=1, deadline_ms=10_000)["ok"]


def test_one_client_may_have_only_so_many_requests_waiting(ask: Ask, serve: Serve, engine: Engine) -> None:
    gate = EngineGate(engine)
    server = serve(limits=ClientLimits(waiting=3))
    client, other = ask(server), ask(server)
    session = client.open()
    with gate.closed():
        for seq in range(1, 5):
            client.send("step", session=session, seq=seq)
        busy = client.receive().header
        assert busy["error"]["code"] == "UNAVAILABLE"
        assert busy["error"]["retry_after_ms"] > 0
        assert other.ask("info")["waiting"] == 3
    assert [client.receive().header["step"]["seq"] for _ in range(3)] == [1, 2, 3]


def test_a_full_server_is_busy_and_a_lease_has_its_limit(ask: Ask, serve: Serve) -> None:
    server = serve(limits=ClientLimits(sessions=3))
    client, other = ask(server), ask(server)
    sessions = [client.open() for _ in range(3)]
    assert client.refusal("open", session=name(), seed=0) == "RESOURCE_EXHAUSTED"
    assert client.refusal("fork", session=sessions[0], seq=0, children=[name()]) == "RESOURCE_EXHAUSTED"
    other.open()
    assert other.refusal("open", session=name(), seed=0) == "UNAVAILABLE"
    client.ask("close", session=sessions[0])
    other.open()


def test_many_steps_may_fail_one_by_one(ask: Ask) -> None:
    client = ask()
    good, bad = client.open(1), client.open(2)
    items = [
        {"session": good, "seq": 1, "control": FORWARD},
        {"session": bad, "seq": 1, "control": {"keys": ["fly"]}},
        {"session": bad, "seq": 5},
        {"session": name(), "seq": 1},
        {"session": good, "seq": 2, "control": FORWARD},
    ]
    reply = client.fetch("step_many", items=items)
    codes = [item.get("error", {}).get("code") for item in reply.header["items"]]
    assert codes == [None, "ENGINE", "OUT_OF_ORDER", "UNKNOWN_SESSION", None]
    assert len(reply.payloads[0]) == 2 * 60 * 80 * 3
    assert client.ask("step", session=bad, seq=1)["ok"]
    assert client.refusal("step_many", items=[items[0]] * 257) == "RESOURCE_EXHAUSTED"
    assert client.refusal("step_many", items=[]) == "RESOURCE_EXHAUSTED"


def test_sessions_are_their_leases(ask: Ask, serve: Serve) -> None:
    server = serve()
    client, other, nobody = ask(server), ask(server), ask(server, greet=False)
    session = client.open()
    assert other.refusal("step", session=session, seq=1) == "PERMISSION_DENIED"
    assert other.refusal("open", session=session, seed=0) == "PERMISSION_DENIED"
    assert other.refusal("close", session=session) == "PERMISSION_DENIED"
    assert nobody.refusal("step", session=session, seq=1) == "BAD_REQUEST"
    assert nobody.refusal("step", session=session, seq=1, lease=name()) == "UNKNOWN_SESSION"
    assert nobody.refusal("heartbeat", lease=name()) == "UNKNOWN_SESSION"
    again = nobody.ask("hello", client="back", lease=client.lease)
    assert (again["lease"], again["sessions"]) == (client.lease, {session: 0})


@pytest.mark.slow
def test_a_silent_lease_ends_and_its_sessions_with_it(ask: Ask, serve: Serve) -> None:
    server = serve(lease_ttl=1.0)
    client, onlooker = ask(server), ask(server, greet=False)
    session = client.open()
    wait_until(lambda: not onlooker.ask("info")["sessions"], "the lease ends")
    assert client.refusal("step", session=session, seq=1) == "UNKNOWN_SESSION"
    assert ask(server).open()


@pytest.mark.parametrize(
    ("op", "keys"),
    [
        ("fly", {}),
        ("step", {}),
        ("step", {"session": "x", "seq": 1}),
        ("step", {"session": "0" * 32, "seq": -1}),
        ("step", {"session": "0" * 32, "seq": True}),
        ("step", {"session": "0" * 32, "seq": 1, "codec": "gif"}),
        ("step", {"session": "0" * 32, "seq": 1, "frames": 1}),
        ("step", {"session": "0" * 32, "seq": 1, "control": {"yaw": "left"}}),
        ("step", {"session": "0" * 32, "seq": 1, "control": {"jump": True}}),
        ("step", {"session": "0" * 32, "seq": 1, "control": {"pose": [1] * 15}}),
        ("step", {"session": "0" * 32, "seq": 1, "deadline_ms": -1}),
        ("open", {"session": "0" * 32, "seed": 2**64 - 1, "start": 0, "context": {}}),
        ("open", {"session": "0" * 32, "seed": 1.5}),
        ("fork", {"session": "0" * 32, "seq": 0, "children": []}),
        ("fork", {"session": "0" * 32, "seq": 0, "children": ["1" * 32] * 2}),
        ("rewind", {"session": "0" * 32, "seq": 1, "frames": 0}),
        ("observe", {"session": "0" * 32, "seq": 1}),
        ("restore", {"session": "0" * 32}),
        ("hello", {"client": 3}),
        ("hello", {}),
        ("info", {"more": 1}),
    ],
)
def test_what_is_malformed_is_refused(ask: Ask, op: str, keys: dict[str, object]) -> None:
    assert ask().refusal(op, **keys) == "BAD_REQUEST"


@pytest.mark.parametrize("control", [False, True])
def test_a_message_that_is_none_is_answered_and_forgotten(ask: Ask, control: bool) -> None:
    client = ask()
    for parts in (
        [b""],
        [b"GET / HTTP/1.1"],
        [MAGIC, b"\xc1"],
        [MAGIC] * 9,
        [MAGIC, msgpack.packb({"op": "step"})],
    ):
        reply = client.raw(*parts, control=control)
        assert (reply["id"], reply["error"]["code"]) == (0, "BAD_REQUEST")
    reply = client.raw(b"WSIM\x07", b"", control=control)
    assert (reply["error"]["code"], reply["error"]["value"]) == ("VERSION", "1")
    assert client.open()


def test_too_many_malformed_messages_are_dropped(ask: Ask, serve: Serve) -> None:
    client = ask(serve(limits=ClientLimits(malformed=2, rate=10**6)))
    for _ in range(500):
        client.data.send_multipart([b"nonsense"])
    session = client.send("open", session=name(), seed=0)
    answers = 0
    while (header := client.receive().header)["id"] != session:
        answers += 1
    assert header["ok"]
    assert answers < 100


def test_a_turn_ends_after_a_few_malformed_messages(
    ask: Ask, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [0]
    poll, receive = Sockets.poll, Sockets.receive

    def count_turn(sockets: Sockets, seconds: float) -> None:
        turns.append(0)
        poll(sockets, seconds)

    def count_message(sockets: Sockets, *, control: bool) -> ReceivedMessage | None:
        incoming = receive(sockets, control=control)
        turns[-1] += incoming is not None
        return incoming

    monkeypatch.setattr(Sockets, "poll", count_turn)
    monkeypatch.setattr(Sockets, "receive", count_message)
    server = serve()
    flooder, good = ask(server), ask(server)
    session = good.open()
    for _ in range(200):
        flooder.data.send_multipart([b"nonsense"])
    for seq in range(1, 4):
        assert good.ask("step", session=session, seq=seq)["ok"]
    last = flooder.send("open", session=name(), seed=0)
    while flooder.receive().header["id"] != last:
        pass
    assert sum(turns) >= 200
    assert max(turns) <= 8


def test_too_many_requests_a_second_are_busy(ask: Ask, serve: Serve) -> None:
    client = ask(serve(limits=ClientLimits(rate=2)))
    errors = [reply.get("error") for reply in (client.ask("info") for _ in range(40))]
    refused = [error for error in errors if error]
    assert errors[0] is None
    assert refused
    assert {error["code"] for error in refused} == {"UNAVAILABLE"}
    assert all(0 < error["retry_after_ms"] <= 1000 for error in refused)
    wait_until(lambda: client.ask("info")["ok"], "a second later it is answered again")


def test_a_fault_of_the_engine_ends_its_sessions_only(
    ask: Ask, serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ask(serve())
    session = client.open()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", fail)
        assert client.refusal("step", session=session, seq=1) == "INTERNAL"
    assert client.refusal("step", session=session, seq=1) == "UNKNOWN_SESSION"
    assert client.ask("step", session=client.open(), seq=1)["ok"]
    assert engine.free == SLOTS - 1


def test_a_server_that_ends_does_what_was_asked_for(ask: Ask, serve: Serve, engine: Engine) -> None:
    gate = EngineGate(engine)
    server = serve()
    client = ask(server)
    session = client.open()
    with gate.closed():
        client.send("step", session=session, seq=1)
        gate.await_step()
        server.drain()
        assert client.refusal("step", session=session, seq=2) == "DRAINING"
        assert client.ask("info")["draining"]
    assert client.receive().header["step"]["seq"] == 1
    server.stop()


def test_nothing_is_lost_when_a_server_starts_again(world: World, tmp_path: Path) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    session, child = name(), name()
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4), options) as server:
        client = ScriptedClient(server.address)
        client.ask("open", session=session, seed=5)
        replies = [client.fetch("step", session=session, seq=seq, control=FORWARD) for seq in range(1, 5)]
        client.ask("rewind", session=session, seq=5, frames=2)
        forked = client.fetch("fork", session=session, seq=5, children=[child])
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4), options):
        assert client.ask("hello", client="x")["sessions"] == {session: 5, child: 0}
        for seq, reply in enumerate(replies, 1):
            again = client.fetch("step", session=session, seq=seq)
            assert again.payloads == reply.payloads
            assert again.header["step"] == reply.header["step"]
        assert client.fetch("fork", session=session, seq=5, children=[child]).payloads == forked.payloads
        for one in (session, child):
            seq = 6 if one == session else 1
            assert client.fetch("step", session=one, seq=seq, control=FORWARD).payloads == replies[2].payloads
        client.close()


def test_what_cannot_be_written_down_is_not_acknowledged(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    server = Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4), options)
    client = ScriptedClient(server.address)
    session = client.open()

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("worldsim.bridge.journal.wal.WriteAheadLog.append", fail)
        client.send("step", session=session, seq=1)
        assert server.ended.wait(20)
    assert not client.data.poll(0)
    assert not server.alive
    server.stop()
    assert server.fault is not None
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4), options):
        assert client.ask("hello", client="x")["sessions"] == {session: 0}
    client.close()


def test_a_state_folder_belongs_to_one_world(world: World, tmp_path: Path) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    Server(world.engine(slots=1, denoising_steps=1), options).stop()
    with pytest.raises(BridgeError, match="steps: 1 -> 2"):
        Server(world.engine(slots=1, denoising_steps=2), options)


def test_addresses_that_are_refused(serve: Serve, world: World, tmp_path: Path) -> None:
    serve()
    engine = world.engine(slots=1)
    with pytest.raises(BridgeError, match="must be free"):
        Server(engine, ServerOptions(address=f"ipc://{tmp_path}/s"))
    for address in ("tcp://*:*", "tcp://0.0.0.0:5757", "tcp://10.1.2.3:5757"):
        with pytest.raises(BridgeError, match="needs keys"):
            Server(engine, ServerOptions(address=address))
    with pytest.raises(BridgeError, match="free and well-formed"):
        Server(engine, ServerOptions(address="ipc:///nowhere/at/all"))


def test_only_its_owner_can_reach_a_socket_file(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    for address in (server.address, control_address(server.address)):
        assert Path(address.removeprefix("ipc://")).stat().st_mode & 0o777 == 0o600


def test_a_long_replay_does_not_use_up_the_time_of_leases(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state", lease_ttl=0.5)
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4), options) as server:
        client = ScriptedClient(server.address)
        session = client.open()
    late: list[float] = []
    recover = server_module.recover

    def slow(*args: object, **keys: object) -> None:
        recover(*args, **keys)
        late.append(10.0)

    clock = time.monotonic
    monkeypatch.setattr(server_module, "recover", slow)
    monkeypatch.setattr(server_module.time, "monotonic", lambda: clock() + sum(late))
    with Server(
        world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=4), replace(options, lease_ttl=5.0)
    ):
        assert client.ask("hello", client="x")["sessions"] == {session: 0}
        client.close()


def test_any_free_port(serve: Serve, ask: Ask) -> None:
    assert ask(serve(address="tcp://127.0.0.1:*")).open()


def test_the_status_page(serve: Serve, ask: Ask) -> None:
    server = serve(metrics_port=0)
    client = ask(server)
    client.ask("step", session=client.open(), seq=1)
    client.refusal("step", session=name(), seq=1)

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}{path}", timeout=20) as reply:
            return str(reply.read().decode())

    lines = page("/metrics").splitlines()
    for line in (
        "worldsim_frames_total 1.0",
        "worldsim_sessions 1.0",
        'worldsim_requests_total{op="step"} 2.0',
    ):
        assert line in lines
    assert 'worldsim_request_errors_total{code="UNKNOWN_SESSION"} 1.0' in lines
    assert page("/livez") == page("/readyz") == "ok\n"
    server.drain()
    with pytest.raises(HTTPError, match="503"):
        page("/readyz")
    with pytest.raises(HTTPError, match="404"):
        page("/secret")
