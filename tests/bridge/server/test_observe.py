"""Observed frames over the wire: as safe as steps, and exactly reproducible."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.bridge.scripted_client import EngineGate, ScriptedClient, name
from tests.tiny import lively_world
from tests.waiting import wait_until
from worldsim import camera
from worldsim.bridge.journal.journal import Journal
from worldsim.bridge.journal.wal import normalized
from worldsim.bridge.server import server as server_module
from worldsim.bridge.server.connections import ConnectionTable
from worldsim.bridge.server.requests import OPERATIONS, Envelope, Request, RequestReader
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.bridge.server.tasks import ObserveTask
from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.bridge.wire.protocol import ClientLimits, Message, describe, read_array
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.engine.world import World, load
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import BridgeError

SLOTS, REWIND_FRAMES = 4, 6
SIZE = (60, 80, 3)
FORWARD = {"keys": ["forward"]}
POSE = camera.from_planar(2.2, 1.9, 1.3, 0.4)
HELD = {"keys": ["turn_left"], "pose": POSE.ravel().tolist()}
"""The control of an observed frame."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(lively_world(tmp_path_factory.mktemp("world")), "cpu", torch.float32)


@pytest.fixture
def engine(world: World) -> Engine:
    return world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES)


@pytest.fixture
def server(engine: Engine, tmp_path: Path) -> Iterator[Server]:
    with Server(engine, ServerOptions(address=f"ipc://{tmp_path}/s", metrics_port=0)) as server:
        yield server
        assert server.fault is None


@pytest.fixture
def client(server: Server) -> Iterator[ScriptedClient]:
    client = ScriptedClient(server.address)
    yield client
    client.close()


def real(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


def entry(frame: np.ndarray) -> dict[str, Any]:
    return {"frame": describe(frame), "control": HELD}


def observed(client: ScriptedClient, session: str, seq: int, frame: np.ndarray, **keys: Any) -> Message:
    return client.fetch("observe", frame.tobytes(), session=session, seq=seq, **{**entry(frame), **keys})


def stepped(client: ScriptedClient, session: str, seq: int) -> bytes:
    return bytes(client.fetch("step", session=session, seq=seq, control=FORWARD).payloads[0])


def test_it_is_what_the_engine_makes_of_it(client: ScriptedClient, world: World) -> None:
    session, ours = client.open(3), world.engine(1, denoising_steps=1).open(3)
    frame = real()
    assert stepped(client, session, 1) == ours.step(Control({"forward"})).frame.tobytes()
    reply, expected = observed(client, session, 2, frame), ours.observe(frame, POSE, Control({"turn_left"}))
    step = reply.header["step"]
    np.testing.assert_array_equal(read_array(step["frame"], reply.payloads), frame)
    assert (step["seq"], step["index"], step["uncertainty"], step["denoising_steps"]) == (
        2,
        expected.index,
        0.0,
        0,
    )
    assert (step["pose"], step["pose_given"]) == (POSE.ravel().tolist(), True)
    assert (step["reward"], step["terminated"]) == (expected.reward, expected.terminated)
    assert stepped(client, session, 3) == ours.step(Control({"forward"})).frame.tobytes()


@pytest.mark.parametrize("codec", ["raw", "jpeg", "latent", "none"])
def test_the_frame_may_come_back_or_not(client: ScriptedClient, codec: str) -> None:
    session = client.open()
    first, again = (observed(client, session, 1, real(), codec=codec) for _ in range(2))
    assert len(first.payloads) == (codec in ("raw", "jpeg"))
    assert (first.header["step"]["frame"] is None) == (codec in ("latent", "none"))
    assert first.payloads == again.payloads


def test_a_repeated_one_is_answered_from_memory(client: ScriptedClient) -> None:
    session, twin = client.open(1), client.open(1)
    first, again = observed(client, session, 1, real()), observed(client, session, 1, real(9))
    assert again.payloads == first.payloads == [real().tobytes()]
    assert again.header["step"] == first.header["step"]
    observed(client, twin, 1, real())
    assert stepped(client, session, 2) == stepped(client, twin, 2)
    for seq in (1, 2):  # whatever took the seq
        assert observed(client, session, seq, real(9)).header["step"]["seq"] == seq
    error = observed(client, session, 4, real()).header["error"]
    assert (error["code"], error["value"]) == ("OUT_OF_ORDER", "2")


def test_a_rewind_takes_it_back(client: ScriptedClient) -> None:
    session, twin = client.open(1), client.open(1)
    before = stepped(client, session, 1)
    observed(client, session, 2, real())
    back = client.fetch("rewind", session=session, seq=3, frames=1)
    assert (back.payloads[0], back.header["step"]["index"]) == (before, stepped_index(client, twin))
    assert stepped(client, session, 4) == stepped(client, twin, 2)


def stepped_index(client: ScriptedClient, session: str) -> int:
    return int(client.ask("step", session=session, seq=1, control=FORWARD)["step"]["index"])


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"control": {}}, "ENGINE", "needs its pose"),
    ({"control": {"pose": [1.0] * 16}}, "ENGINE", "a pose"),
    ({"control": {"pose": [1.0] * 15}}, "BAD_REQUEST", "16 numbers"),
    ({"control": {"pose": "here"}}, "BAD_REQUEST", "list"),
    ({"control": {"keys": ["fly"]}}, "ENGINE", "fly"),
    ({"control": {"yaw": 1e9}}, "ENGINE", "radians"),
    ({"control": []}, "BAD_REQUEST", "map"),
    ({"frame": None}, "BAD_REQUEST", "dtype, shape and part"),
    ({"frame": {"codec": "jpeg", "shape": list(SIZE), "part": 0}}, "BAD_REQUEST", "dtype, shape and part"),
    ({"frame": {"dtype": "u1", "shape": [30, 160, 3], "part": 0}}, "ENGINE", "a frame must be uint8"),
    ({"frame": {"dtype": "u1", "shape": [60, 80, 3, 1], "part": 0}}, "ENGINE", "a frame must be uint8"),
    ({"frame": {"dtype": "u1", "shape": [60 * 80 * 3], "part": 0}}, "ENGINE", "a frame must be uint8"),
    ({"frame": {"dtype": "u1", "shape": [60, 80, 4], "part": 0}}, "BAD_REQUEST", "19200 bytes"),
    ({"frame": {"dtype": "f4", "shape": [60, 20, 3], "part": 0}}, "BAD_REQUEST", "must be u1"),
    ({"frame": {"dtype": "u1", "shape": list(SIZE), "part": 1}}, "BAD_REQUEST", "payloads"),
    ({"frame": {"dtype": "u1", "shape": [2**31] * 8, "part": 0}}, "BAD_REQUEST", "bytes"),
    ({"pose": POSE.ravel().tolist()}, "BAD_REQUEST", "no such key"),
    ({"codec": "gif"}, "BAD_REQUEST", "codec"),
    ({"seq": 0}, "BAD_REQUEST", "seq"),
    ({"session": "0" * 32}, "UNKNOWN_SESSION", "open"),
]


@pytest.mark.parametrize(("keys", "code", "words"), WRONG)
def test_what_is_wrong_is_refused_and_nothing_is_lost(
    client: ScriptedClient, keys: dict[str, Any], code: str, words: str
) -> None:
    session, twin = client.open(5), client.open(5)
    request = {"session": session, "seq": 1, **entry(real()), **keys}
    error = client.ask("observe", real().tobytes(), **request)["error"]
    assert error["code"] == code
    assert words in f"{error['rule']} {error['value']}"
    assert observed(client, session, 1, real()).header["ok"]
    observed(client, twin, 1, real())
    assert stepped(client, session, 2) == stepped(client, twin, 2)


def test_it_has_one_payload(client: ScriptedClient) -> None:
    session, frame = client.open(), real()
    for payloads in ([], [frame.tobytes()] * 2):
        request = {"session": session, "seq": 1, **entry(frame)}
        assert client.refusal("observe", *payloads, **request) == "BAD_REQUEST"


def test_it_is_for_whom_the_session_is(client: ScriptedClient, server: Server) -> None:
    session, other = client.open(), ScriptedClient(server.address)
    assert observed(other, session, 1, real()).header["error"]["code"] == "PERMISSION_DENIED"
    other.close()


def test_late_is_said_only_of_what_was_not_done(client: ScriptedClient, engine: Engine) -> None:
    gate = EngineGate(engine)
    session, other = client.open(), client.open()
    stepped(client, session, 1)
    client.ask("rewind", session=session, seq=2, frames=1)
    first = observed(client, session, 3, real())
    gate.await_step()
    with gate.closed():
        client.send("step", session=other, seq=1)
        gate.await_step()
        client.send("rewind", session=session, seq=2, frames=1, deadline_ms=0.001)
        for seq in (3, 4):
            request = {"session": session, "seq": seq, "deadline_ms": 0.001, **entry(real())}
            client.send("observe", real().tobytes(), **request)
        client.ask("info")
    assert client.receive().header["ok"]
    assert client.receive().header["step"]["seq"] == 2
    assert client.receive().header["step"] == first.header["step"]
    assert client.receive().header["error"]["code"] == "DEADLINE_EXCEEDED"
    assert observed(client, session, 4, real(), deadline_ms=60_000).header["ok"]


@pytest.mark.slow
def test_many_of_one_session_do_not_keep_others_waiting(
    client: ScriptedClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, done = EngineGate(engine), []
    observe, begin = engine.observe, engine.open

    def slow(*args: Any) -> Any:
        time.sleep(0.03)
        done.append("observe")
        return observe(*args)

    monkeypatch.setattr(engine, "observe", slow)
    session, frame = client.open(), real()
    monkeypatch.setattr(engine, "open", lambda *args: (done.append("open"), begin(*args))[1])
    with gate.closed():
        client.send("step", session=session, seq=1)
        gate.await_step()
        for seq in range(2, 10):
            client.send("observe", frame.tobytes(), session=session, seq=seq, **entry(frame))
        client.send("open", session=name(), seed=0)
        client.ask("info")
    assert all(client.receive().header["ok"] for _ in range(10))
    assert done.index("open") < done.count("observe") == 8


def test_a_fault_of_the_engine_leaves_the_session_as_it_was(
    client: ScriptedClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = client.open(), client.open()

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "observe", fail)
        assert observed(client, session, 1, real()).header["error"]["code"] == "INTERNAL"
    assert observed(client, session, 1, real()).header["ok"]
    assert observed(client, other, 1, real()).header["ok"]
    assert engine.free == SLOTS - 2


def test_it_is_told_and_counted(client: ScriptedClient, server: Server) -> None:
    assert client.ask("hello", client="x")["ops"] == list(OPERATIONS)
    session = client.open()
    for _ in range(2):
        observed(client, session, 1, real())
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    assert 'worldsim_requests_total{op="observe"} 2.0' in lines
    assert "worldsim_observe_seconds_count 1.0" in lines


@pytest.mark.slow
@pytest.mark.parametrize("snapshot_interval", [3, 64])
def test_nothing_is_lost_when_a_server_starts_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot_interval: int
) -> None:
    monkeypatch.setattr(server_module, "Journal", partial(Journal, snapshot_interval=snapshot_interval))
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")

    def begin() -> Server:
        return Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options)

    session, child, bare = (
        name(),
        name(),
        world.engine(1, denoising_steps=1, rewind_frames=REWIND_FRAMES).open(5),
    )
    with begin() as server:
        client = ScriptedClient(server.address)
        client.ask("open", session=session, seed=5)
        replies = []
        for seq in range(1, 13):
            if seq % 3:
                replies.append(client.fetch("step", session=session, seq=seq, control=FORWARD))
                bare.step(Control({"forward"}))
            else:
                replies.append(observed(client, session, seq, real(seq)))
                bare.observe(real(seq), POSE, Control({"turn_left"}))
            assert replies[-1].payloads[0] == bare.frame.tobytes()
        client.ask("fork", session=session, seq=12, children=[child])
    for life in (1, 2):
        with begin():
            assert client.ask("hello", client="x")["sessions"] == {session: 11 + life, child: 0}
            if life == 1:
                for seq in range(5, 13):
                    again = observed(client, session, seq, real(99))
                    assert again.payloads == replies[seq - 1].payloads
                    assert again.header["step"] == replies[seq - 1].header["step"]
                back = client.fetch("rewind", session=session, seq=13, frames=4)
                assert back.payloads == replies[7].payloads
    with begin():
        assert stepped(client, child, 1) == bare.step(Control({"forward"})).frame.tobytes()
        bare.rewind(5)
        assert observed(client, session, 14, real(9)).header["ok"]
        bare.observe(real(9), POSE, Control({"turn_left"}))
        assert stepped(client, session, 15) == bare.step(Control({"forward"})).frame.tobytes()
        client.close()


@pytest.mark.slow
def test_a_session_that_is_only_anchored_is_snapshot_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals = list[Journal]()

    def keep(*args: Any, **options: Any) -> Journal:
        journals.append(Journal(*args, **options, snapshot_interval=3))
        return journals[-1]

    monkeypatch.setattr(server_module, "Journal", keep)
    engine, blobs = world.engine(slots=1, denoising_steps=1, rewind_frames=2), tmp_path / "state" / "blobs"
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    with Server(engine, options) as server:
        client = ScriptedClient(server.address)
        session = client.open()
        for seq in range(1, 61):
            observed(client, session, seq, real(seq), codec="none")
            # The bounds below are those of a writer that does not lag behind the answers.
            wait_until(lambda: not journals[0].due(session), "the session's snapshot is taken")
            journals[0].flush()
        client.close()
    assert len(list(blobs.iterdir())) < 50  # of 80 that were written
    with server_module._open_journal(engine, options) as journal:
        (plan,) = journal.recover()
        assert (plan.base["op"], plan.seq) == ("snapshot", 60)
        assert len(plan.events) < 20
        assert len(list(blobs.iterdir())) < 25


CONTROLS = st.builds(
    Control,
    st.sets(st.sampled_from(DOOM_KEYS)),
    st.sampled_from([None, POSE]),
    st.floats(-9, 9),
)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))


@pytest.mark.slow
@given(SHAPES, st.integers(0, 2**32), CONTROLS)
def test_what_the_journal_is_told_comes_back(shape: tuple[int, ...], seed: int, control: Control) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    task = ObserveTask("0" * 32, 7, frame, control)
    back = ObserveTask.from_record(normalized(task.record()))
    assert (back.session, back.seq, back.control) == (task.session, task.seq, task.control)
    np.testing.assert_array_equal(back.frame, frame)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
ARRAYS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["u1", "f2", "f4", "f8", "O"]) | ODD,
        "shape": st.lists(st.integers(-1, 2**31), max_size=9) | ODD,
        "part": st.integers(-1, 2) | ODD,
    }
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "session": st.just("0" * 32) | ODD,
        "seq": st.integers(0, 9) | ODD,
        "frame": ARRAYS | ODD,
        "control": st.fixed_dictionaries({}, optional={"keys": ODD, "yaw": ODD, "pose": ODD}) | ODD,
        "codec": st.sampled_from(["raw", "none"]) | ODD,
    },
)


@given(HEADERS, st.lists(st.binary(max_size=64), max_size=3))
def test_whatever_is_asked_is_a_request_or_a_typed_error(
    header: dict[str, Any], payloads: list[bytes]
) -> None:
    reader, connection = (
        RequestReader(lambda _: None, ClientLimits(), (8, 60, 80, 3)),
        ConnectionTable(1, 1).lookup(False, b"", "", 0.0),
    )
    try:
        fields = HeaderFields(header, "a request")
        request = reader.read(Envelope("observe", 1, "1" * 32), fields, payloads, connection, 0.0)
    except BridgeError:
        return
    assert isinstance(request, Request)
