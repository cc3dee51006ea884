"""A real frame over the wire, in the middle of a dream: as safe as a step, and as exactly the same again."""

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

from tests.bridge.asker import Asker, Gate, name
from tests.tiny import lively_world
from worldsim import camera
from worldsim.bridge import server as server_module
from worldsim.bridge.fields import Fields
from worldsim.bridge.journal import Journal
from worldsim.bridge.log import as_read
from worldsim.bridge.peers import Peers
from worldsim.bridge.protocol import Limits, Message, describe, read_array
from worldsim.bridge.requests import OPERATIONS, Envelope, Reader, Request
from worldsim.bridge.server import Options, Server
from worldsim.bridge.tasks import Anchor
from worldsim.controls import DOOM_KEYS, Control
from worldsim.engine.engine import Engine
from worldsim.engine.world import World, load
from worldsim.errors import BridgeError

SLOTS, HISTORY = 4, 6
SIZE = (60, 80, 3)
FORWARD = {"keys": ["forward"]}
POSE = camera.from_planar(2.2, 1.9, 1.3, 0.4)
HELD = {"keys": ["turn_left"], "pose": POSE.ravel().tolist()}
"""The control of an anchor."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(lively_world(tmp_path_factory.mktemp("world")), "cpu", torch.float32)


@pytest.fixture
def engine(world: World) -> Engine:
    return world.engine(slots=SLOTS, steps=1, history=HISTORY)


@pytest.fixture
def server(engine: Engine, tmp_path: Path) -> Iterator[Server]:
    with Server(engine, Options(address=f"ipc://{tmp_path}/s", metrics_port=0)) as server:
        yield server
        assert server.fault is None


@pytest.fixture
def asker(server: Server) -> Iterator[Asker]:
    asker = Asker(server.address)
    yield asker
    asker.close()


def real(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


def entry(frame: np.ndarray) -> dict[str, Any]:
    return {"frame": describe(frame), "control": HELD}


def anchored(asker: Asker, session: str, seq: int, frame: np.ndarray, **keys: Any) -> Message:
    return asker.fetch("anchor", frame.tobytes(), session=session, seq=seq, **{**entry(frame), **keys})


def stepped(asker: Asker, session: str, seq: int) -> bytes:
    return bytes(asker.fetch("step", session=session, seq=seq, control=FORWARD).payloads[0])


def test_it_is_what_the_engine_makes_of_it(asker: Asker, world: World) -> None:
    session, ours = asker.open(3), world.engine(1, steps=1).open(3)
    frame = real()
    assert stepped(asker, session, 1) == ours.step(Control({"forward"})).frame.tobytes()
    reply, expected = anchored(asker, session, 2, frame), ours.anchor(frame, POSE, Control({"turn_left"}))
    step = reply.header["step"]
    np.testing.assert_array_equal(read_array(step["frame"], reply.payloads), frame)
    assert (step["seq"], step["index"], step["drift"], step["steps"]) == (2, expected.index, 0.0, 0)
    assert (step["pose"], step["pose_given"]) == (POSE.ravel().tolist(), True)
    assert (step["reward"], step["terminated"]) == (expected.reward, expected.terminated)
    assert stepped(asker, session, 3) == ours.step(Control({"forward"})).frame.tobytes()


@pytest.mark.parametrize("codec", ["raw", "jpeg", "latent", "none"])
def test_the_frame_may_come_back_or_not(asker: Asker, codec: str) -> None:
    session = asker.open()
    first, again = (anchored(asker, session, 1, real(), codec=codec) for _ in range(2))
    assert len(first.payloads) == (codec in ("raw", "jpeg"))
    assert (first.header["step"]["frame"] is None) == (codec in ("latent", "none"))
    assert first.payloads == again.payloads


def test_a_repeated_one_is_answered_from_memory(asker: Asker) -> None:
    session, twin = asker.open(1), asker.open(1)
    first, again = anchored(asker, session, 1, real()), anchored(asker, session, 1, real(9))
    assert again.payloads == first.payloads == [real().tobytes()]
    assert again.header["step"] == first.header["step"]
    anchored(asker, twin, 1, real())
    assert stepped(asker, session, 2) == stepped(asker, twin, 2)
    for seq in (1, 2):  # whatever took the seq
        assert anchored(asker, session, seq, real(9)).header["step"]["seq"] == seq
    error = anchored(asker, session, 4, real()).header["error"]
    assert (error["code"], error["value"]) == ("GAP", "2")


def test_a_rewind_takes_it_back(asker: Asker) -> None:
    session, twin = asker.open(1), asker.open(1)
    before = stepped(asker, session, 1)
    anchored(asker, session, 2, real())
    back = asker.fetch("rewind", session=session, seq=3, frames=1)
    assert (back.payloads[0], back.header["step"]["index"]) == (before, stepped_index(asker, twin))
    assert stepped(asker, session, 4) == stepped(asker, twin, 2)


def stepped_index(asker: Asker, session: str) -> int:
    return int(asker.ask("step", session=session, seq=1, control=FORWARD)["step"]["index"])


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"control": {}}, "ENGINE", "needs its pose"),
    ({"control": {"pose": [1.0] * 16}}, "ENGINE", "a pose"),
    ({"control": {"pose": [1.0] * 15}}, "BAD_REQUEST", "16 numbers"),
    ({"control": {"pose": "here"}}, "BAD_REQUEST", "list"),
    ({"control": {"keys": ["fly"]}}, "ENGINE", "fly"),
    ({"control": {"look": 1e9}}, "ENGINE", "radians"),
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
    asker: Asker, keys: dict[str, Any], code: str, words: str
) -> None:
    session, twin = asker.open(5), asker.open(5)
    request = {"session": session, "seq": 1, **entry(real()), **keys}
    error = asker.ask("anchor", real().tobytes(), **request)["error"]
    assert error["code"] == code
    assert words in f"{error['rule']} {error['value']}"
    assert anchored(asker, session, 1, real()).header["ok"]
    anchored(asker, twin, 1, real())
    assert stepped(asker, session, 2) == stepped(asker, twin, 2)


def test_it_has_one_payload(asker: Asker) -> None:
    session, frame = asker.open(), real()
    for payloads in ([], [frame.tobytes()] * 2):
        request = {"session": session, "seq": 1, **entry(frame)}
        assert asker.refusal("anchor", *payloads, **request) == "BAD_REQUEST"


def test_it_is_for_whom_the_session_is(asker: Asker, server: Server) -> None:
    session, other = asker.open(), Asker(server.address)
    assert anchored(other, session, 1, real()).header["error"]["code"] == "NOT_YOURS"
    other.close()


def test_late_is_said_only_of_what_was_not_done(asker: Asker, engine: Engine) -> None:
    gate = Gate(engine)
    session, other = asker.open(), asker.open()
    stepped(asker, session, 1)
    asker.ask("rewind", session=session, seq=2, frames=1)
    first = anchored(asker, session, 3, real())
    gate.await_step()
    with gate.closed():
        asker.send("step", session=other, seq=1)
        gate.await_step()
        asker.send("rewind", session=session, seq=2, frames=1, deadline_ms=0.001)
        for seq in (3, 4):
            request = {"session": session, "seq": seq, "deadline_ms": 0.001, **entry(real())}
            asker.send("anchor", real().tobytes(), **request)
        asker.ask("info")
    assert asker.receive().header["ok"]
    assert asker.receive().header["step"]["seq"] == 2
    assert asker.receive().header["step"] == first.header["step"]
    assert asker.receive().header["error"]["code"] == "LATE"
    assert anchored(asker, session, 4, real(), deadline_ms=60_000).header["ok"]


def test_many_of_one_session_do_not_keep_others_waiting(
    asker: Asker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, done = Gate(engine), []
    anchor, begin = engine.anchor, engine.open

    def slow(*args: Any) -> Any:
        time.sleep(0.03)
        done.append("anchor")
        return anchor(*args)

    monkeypatch.setattr(engine, "anchor", slow)
    session, frame = asker.open(), real()
    monkeypatch.setattr(engine, "open", lambda *args: (done.append("open"), begin(*args))[1])
    with gate.closed():
        asker.send("step", session=session, seq=1)
        gate.await_step()
        for seq in range(2, 10):
            asker.send("anchor", frame.tobytes(), session=session, seq=seq, **entry(frame))
        asker.send("open", session=name(), seed=0)
        asker.ask("info")
    assert all(asker.receive().header["ok"] for _ in range(10))
    assert done.index("open") < done.count("anchor") == 8


def test_a_fault_of_the_engine_leaves_the_session_as_it_was(
    asker: Asker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = asker.open(), asker.open()

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "anchor", fail)
        assert anchored(asker, session, 1, real()).header["error"]["code"] == "INTERNAL"
    assert anchored(asker, session, 1, real()).header["ok"]
    assert anchored(asker, other, 1, real()).header["ok"]
    assert engine.free == SLOTS - 2


def test_it_is_told_and_counted(asker: Asker, server: Server) -> None:
    assert asker.ask("hello", client="x")["ops"] == list(OPERATIONS)
    session = asker.open()
    for _ in range(2):
        anchored(asker, session, 1, real())
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    assert 'worldsim_requests_total{op="anchor"} 2.0' in lines
    assert "worldsim_anchor_seconds_count 1.0" in lines


@pytest.mark.parametrize("every", [3, 64])
def test_nothing_is_lost_when_a_server_starts_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(server_module, "Journal", partial(Journal, every=every))
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state")

    def begin() -> Server:
        return Server(world.engine(slots=SLOTS, steps=1, history=HISTORY), options)

    session, child, bare = name(), name(), world.engine(1, steps=1, history=HISTORY).open(5)
    with begin() as server:
        asker = Asker(server.address)
        asker.ask("open", session=session, seed=5)
        replies = []
        for seq in range(1, 13):
            if seq % 3:
                replies.append(asker.fetch("step", session=session, seq=seq, control=FORWARD))
                bare.step(Control({"forward"}))
            else:
                replies.append(anchored(asker, session, seq, real(seq)))
                bare.anchor(real(seq), POSE, Control({"turn_left"}))
            assert replies[-1].payloads[0] == bare.frame.tobytes()
        asker.ask("fork", session=session, seq=12, children=[child])
    for life in (1, 2):
        with begin():
            assert asker.ask("hello", client="x")["sessions"] == {session: 11 + life, child: 0}
            if life == 1:
                for seq in range(5, 13):
                    again = anchored(asker, session, seq, real(99))
                    assert again.payloads == replies[seq - 1].payloads
                    assert again.header["step"] == replies[seq - 1].header["step"]
                back = asker.fetch("rewind", session=session, seq=13, frames=4)
                assert back.payloads == replies[7].payloads
    with begin():
        assert stepped(asker, child, 1) == bare.step(Control({"forward"})).frame.tobytes()
        bare.rewind(5)
        assert anchored(asker, session, 14, real(9)).header["ok"]
        bare.anchor(real(9), POSE, Control({"turn_left"}))
        assert stepped(asker, session, 15) == bare.step(Control({"forward"})).frame.tobytes()
        asker.close()


def test_a_session_that_is_only_anchored_is_snapshot_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "Journal", partial(Journal, every=3))
    engine, blobs = world.engine(slots=1, steps=1, history=2), tmp_path / "state" / "blobs"
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state")
    with Server(engine, options) as server:
        asker = Asker(server.address)
        session = asker.open()
        for seq in range(1, 61):
            anchored(asker, session, seq, real(seq), codec="none")
        asker.close()
    assert len(list(blobs.iterdir())) < 50  # of 80 that were written
    with server_module._journal(engine, options) as journal:
        (tale,) = journal.recover()
        assert (tale.base["op"], tale.seq) == ("snapshot", 60)
        assert len(tale.events) < 20
        assert len(list(blobs.iterdir())) < 25


CONTROLS = st.builds(
    Control,
    st.sets(st.sampled_from(DOOM_KEYS)),
    st.sampled_from([None, POSE]),
    st.floats(-9, 9),
)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))


@given(SHAPES, st.integers(0, 2**32), CONTROLS)
def test_what_the_journal_is_told_comes_back(shape: tuple[int, ...], seed: int, control: Control) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    task = Anchor("0" * 32, 7, frame, control)
    back = Anchor.of_record(as_read(task.record()))
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
        "control": st.fixed_dictionaries({}, optional={"keys": ODD, "look": ODD, "pose": ODD}) | ODD,
        "codec": st.sampled_from(["raw", "none"]) | ODD,
    },
)


@given(HEADERS, st.lists(st.binary(max_size=64), max_size=3))
def test_whatever_is_asked_is_a_request_or_a_typed_error(
    header: dict[str, Any], payloads: list[bytes]
) -> None:
    reader, peer = Reader(lambda _: None, Limits(), (8, 60, 80, 3)), Peers(1, 1).meet(False, b"", "", 0.0)
    try:
        fields = Fields(header, "a request")
        request = reader.read(Envelope("anchor", 1, "1" * 32), fields, payloads, peer, 0.0)
    except BridgeError:
        return
    assert isinstance(request, Request)
