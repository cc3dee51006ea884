from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.bridge.fake_server import HELLO, LEASE, SIZE, FakeServer
from worldsim.bridge.client import (
    Client,
    ClientKeys,
    DeadlineExceededError,
    OutOfOrderError,
    PermissionDeniedError,
    UnansweredError,
    UnavailableError,
    UnknownSessionError,
    pending_request,
)
from worldsim.controls import Control
from worldsim.errors import BridgeError, ControlError, DependencyError, EngineError, WorldsimError

FORWARD = Control({"forward"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_request, "_FIRST_RETRY", 0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    server = FakeServer(f"ipc://{tmp_path}/s")
    yield server
    server.close()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address, timeout=20) as client:
        yield client


@pytest.mark.parametrize("ask", ["step", "step_chunk", "step_many"])
def test_jpeg_without_pillow_is_refused_before_a_step(
    client: Client, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    session = client.open()
    asked = {
        "step": lambda: session.step(FORWARD, codec="jpeg"),
        "step_chunk": lambda: session.step_chunk([FORWARD], codec="jpeg"),
        "step_many": lambda: client.step_many({session: FORWARD}, codec="jpeg"),
    }
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DependencyError, match="pip install pillow"):
        asked[ask]()
    assert session.step(FORWARD).seq == 1


def test_an_unknown_codec_is_refused_at_once(client: Client) -> None:
    with pytest.raises(BridgeError, match=r"did you mean .jpeg."):
        client.open().step(FORWARD, codec="jpg")


def test_what_a_server_tells_of_its_world(client: Client) -> None:
    world = client.world
    assert (world.name, world.size, world.fps, world.starts, world.latent) == (
        "fake",
        (12, 16),
        17.5,
        2,
        (4, 3),
    )
    assert world.control_space.keys[0] == "forward"
    assert client.lease == LEASE
    assert client.info() == {"world": "fake", "sessions": 0}


def test_a_session_is_stepped_as_one_of_the_engines(client: Client) -> None:
    session = client.open(seed=2**64 - 1, start=1)
    assert (session.seed, session.start, session.index, session.closed) == (2**64 - 1, 1, 0, False)
    first = session.frame
    step = session.step(FORWARD)
    assert (step.index, step.reward, step.terminated, step.pose_given) == (1, 1.0, False, False)
    assert step.frame is session.frame
    assert step.frame.shape == (12, 16, 3)
    assert not np.array_equal(first, step.frame)
    assert_array_equal(session.pose, np.eye(4))
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    assert_array_equal(session.step(Control(pose=pose)).pose, pose)
    assert session.last.pose_given


@pytest.mark.parametrize("many", [False, True])
def test_frames_come_as_asked_for(client: Client, many: bool) -> None:
    twins = client.open(seed=3).fork(4)

    def step(session, codec):
        return (
            client.step_many({session: FORWARD}, codec=codec)[session]
            if many
            else session.step(FORWARD, codec=codec)
        )

    raw, jpeg, latent, none = (
        step(*pair) for pair in zip(twins, ("raw", "jpeg", "latent", "none"), strict=True)
    )
    assert jpeg.frame.shape == raw.frame.shape
    assert np.abs(jpeg.frame.astype(float) - raw.frame).mean() < 60
    assert latent.latent.shape == (4, 3)
    assert latent.latent.dtype == np.float32
    assert latent.frame is None is none.frame
    with pytest.raises(BridgeError, match="codec"):
        client.step_many({twins[0]: FORWARD}, codec="jpg")


def test_twins_a_rewind_and_a_snapshot_see_the_same_future(client: Client) -> None:
    session = client.open(seed=1)
    session.step(FORWARD)
    blob = session.snapshot()
    (twin,) = session.fork()
    again = client.restore(blob)
    future = session.step(FORWARD)
    assert_array_equal(twin.step(FORWARD).frame, future.frame)
    assert_array_equal(again.step(FORWARD).frame, future.frame)
    back = session.rewind()
    assert (back.seq, back.index) == (3, 1)
    assert_array_equal(session.step(FORWARD).frame, future.frame)


def test_a_real_frame_is_the_next_one(client: Client, server: FakeServer) -> None:
    session, twin = client.open(seed=1), client.open(seed=1)
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    frame = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    step = session.observe(frame[:, ::-1], pose, Control({"forward"}, pose=np.eye(4)))
    asked = server.seen[-1]
    assert asked["frame"] == {"dtype": "u1", "shape": [12, 16, 3], "part": 0}
    assert asked["control"] == {"keys": ["forward"], "pose": pose.ravel().tolist()}
    assert (asked["codec"], step.seq, step.index, step.pose_given) == ("none", 1, 1, True)
    assert_array_equal(step.frame, frame[:, ::-1])
    assert session.frame is step.frame
    future = twin.observe_async(frame, pose, FORWARD, deadline=5.0)
    mirrored, frame[:] = frame[:, ::-1].copy(), 0  # a camera's buffer is used again
    assert future.result().frame.any()
    assert server.seen[-1]["deadline_ms"] == 5000
    assert not np.array_equal(session.step().frame, twin.step().frame)
    twin.rewind(2)
    twin.observe(mirrored, pose, FORWARD)
    assert_array_equal(session.rewind(1).pose, pose)
    assert_array_equal(session.step().frame, twin.step().frame)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((12, 15, 3), np.uint8),
        np.zeros((12, 16, 4), np.uint8),
        np.zeros((12, 16, 3), np.float32),
        np.zeros((12, 16, 3), np.int8),
    ],
)
def test_what_is_no_frame_of_the_world_is_not_sent(
    client: Client, server: FakeServer, frame: np.ndarray
) -> None:
    session = client.open()
    with pytest.raises(EngineError, match="a frame must be uint8"):
        session.observe(frame)
    for pose in (np.full((4, 4), np.nan), np.eye(3)):
        with pytest.raises(ControlError):
            session.observe(np.zeros((12, 16, 3), np.uint8), pose)
    assert "observe" not in server.ops()


def test_an_older_server_does_not_tell_its_operations(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(server.address) as client:
        assert "observe" in client.world.ops
    monkeypatch.delitem(HELLO, "ops")
    with Client(server.address) as client:
        assert client.world.ops == ()


def test_given_frames_travel(client: Client, server: FakeServer) -> None:
    class Given:
        frames = np.zeros((2, 12, 16, 3), np.uint8)
        controls = np.zeros((2, 7))
        poses = np.tile(np.eye(4), (2, 1, 1))

    client.open(start=Given())
    context = server.seen[-1]["context"]
    assert [context[name]["dtype"] for name in ("frames", "controls", "poses")] == ["u1", "f4", "f8"]


def test_futures_are_answered_in_order(client: Client, server: FakeServer) -> None:
    sessions = [client.open(seed=i) for i in range(3)]
    server.faults.extend(["DROP", "OK", "UNAVAILABLE", "DEAF"])
    futures = [session.step_async(FORWARD) for _ in range(40) for session in sessions]
    assert not wait(futures, timeout=30).not_done
    assert [future.result().index for future in futures] == [n for n in range(1, 41) for _ in range(3)]


def test_step_many_moves_all(client: Client) -> None:
    sessions = [client.open(seed=i) for i in range(5)]
    twins = [session.fork()[0] for session in sessions]
    steps = client.step_many(dict.fromkeys(sessions, FORWARD))
    for session, twin in zip(sessions, twins, strict=True):
        assert_array_equal(steps[session].frame, twin.step(FORWARD).frame)
        assert session.seq == 1


def test_step_many_asks_the_busy_ones_again_and_moves_what_it_can(client: Client, server: FakeServer) -> None:
    sessions = [client.open(seed=i) for i in range(3)]
    server.faults.extend(["OK", "OK", "UNAVAILABLE", "OK"])
    client.step_many(dict.fromkeys(sessions, FORWARD))
    assert [session.seq for session in sessions] == [1, 1, 1]
    server.faults.extend(["OK", "OK", "DEADLINE_EXCEEDED", "OK"])
    with pytest.raises(DeadlineExceededError):
        client.step_many(dict.fromkeys(sessions, FORWARD), deadline=0.001)
    assert [session.seq for session in sessions] == [2, 1, 2]
    client.step_many(dict.fromkeys(sessions, FORWARD))
    assert [session.index for session in sessions] == [3, 2, 3]


def test_more_than_one_message_holds(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = client.open().fork(7)
    client.world.limits["items"] = 3
    assert len(client.step_many(dict.fromkeys(sessions, FORWARD))) == 7
    assert {session.seq for session in sessions} == {1}


def test_controls_too_long_for_one_message(client: Client, server: FakeServer) -> None:
    sessions = client.open().fork(250)
    control = Control(client.world.control_space.keys, pose=np.eye(4), yaw=0.1)
    server.seen.clear()
    client.step_many(dict.fromkeys(sessions, control), codec="none")
    assert {len(header["items"]) for header in server.seen} == {125}
    assert {session.seq for session in sessions} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["DROP", "DEAF", "UNAVAILABLE", "DRAINING"])
def test_nothing_happens_twice_and_nothing_is_lost(client: Client, server: FakeServer, fault: str) -> None:
    session, clean = client.open(seed=5), client.open(seed=5)
    observe = partial(session.observe, np.zeros((*SIZE, 3), np.uint8))
    moves = (lambda: session.step(FORWARD), session.rewind, observe, session.rewind)
    for op in (*moves, session.fork, session.snapshot):
        server.faults.append(fault)
        op()
    assert (session.seq, session.index) == (4, 0)
    server.faults.append(fault)
    assert_array_equal(session.step(FORWARD).frame, clean.step(FORWARD).frame)
    server.faults.append(fault)
    session.close()
    assert len(server.sessions) == 2


def test_a_late_step_leaves_its_number_to_the_next(client: Client, server: FakeServer) -> None:
    session = client.open()
    server.faults.append("DEADLINE_EXCEEDED")
    with pytest.raises(DeadlineExceededError, match="rule of DEADLINE_EXCEEDED"):
        session.step(FORWARD, deadline=0.5)
    assert server.seen[-1]["deadline_ms"] == 500
    assert session.step(FORWARD).seq == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ENGINE", EngineError),
        ("OUT_OF_ORDER", OutOfOrderError),
        ("PERMISSION_DENIED", PermissionDeniedError),
        ("INTERNAL", BridgeError),
        ("SOMETHING_NEW", BridgeError),
    ],
)
def test_refusals_are_typed(client: Client, server: FakeServer, code: str, kind: type[WorldsimError]) -> None:
    session = client.open()
    server.faults.append(code)
    with pytest.raises(kind, match=f"rule of {code}"):
        session.step()
    assert session.step().seq == 1


@pytest.mark.parametrize("op", ["open", "step", "step_many", "fork", "rewind", "snapshot"])
def test_a_reply_that_lacks_what_it_must_hold_is_a_typed_error(
    client: Client, server: FakeServer, op: str
) -> None:
    session = client.open()
    calls = {
        "open": client.open,
        "step": session.step,
        "step_many": lambda: client.step_many({session: FORWARD}),
        "fork": session.fork,
        "rewind": session.rewind,
        "snapshot": session.snapshot,
    }
    server.faults.append("EMPTY")
    with pytest.raises(BridgeError, match="must be complete") as caught:
        calls[op]()
    assert caught.value.code == "INTERNAL"
    assert client.open().step(FORWARD).seq == 1


def test_a_control_that_the_world_does_not_take_is_not_sent(client: Client, server: FakeServer) -> None:
    session = client.open()
    with pytest.raises(ControlError, match="forward"):
        session.step(Control({"forwart"}))
    assert "step" not in server.ops()


def test_a_server_that_stays_busy(server: FakeServer) -> None:
    with Client(server.address, timeout=0.3) as client:
        session = client.open()
        server.pause = 1000.0  # longer than the client has
        server.faults.append("UNAVAILABLE")
        with pytest.raises(UnavailableError, match="rule of UNAVAILABLE"):
            session.step()
        assert session.step().seq == 1


@pytest.mark.slow
def test_an_unanswered_step_is_cleared_up_by_resuming(server: FakeServer) -> None:
    with Client(server.address, timeout=0.3) as client:
        session = client.open(seed=1)
        server.faults.extend(["DROP"] * 100)
        with pytest.raises(UnansweredError, match="step"):
            session.step(FORWARD)
        with pytest.raises(BridgeError, match="resume"):
            session.step(FORWARD)
        server.faults.clear()
        assert client.resume() == (session,)
        assert session.seq == 1
        assert session.step(FORWARD).index == 2


def test_a_client_that_was_cut_off_has_its_sessions_back(server: FakeServer) -> None:
    first = Client(server.address)
    name = first.open(seed=1).name
    first.close(keep_sessions=True)
    with Client(server.address, lease=first.lease) as second:
        (session,) = second.sessions
        assert (session.name, session.seq) == (name, 0)
        with pytest.raises(BridgeError, match="next step"):
            _ = session.frame
        assert session.step(FORWARD).index == 1
    assert not server.sessions


def test_sessions_that_the_server_lost_are_closed_by_resuming(client: Client, server: FakeServer) -> None:
    session = client.open()
    server.sessions.clear()
    with pytest.raises(UnknownSessionError):
        session.step()
    assert client.resume() == ()
    assert session.closed
    session.close()


def test_a_lease_that_ended_is_renewed_by_the_next_open(client: Client, server: FakeServer) -> None:
    old = client.open()
    server.sessions.clear()
    server.faults.append("UNKNOWN_SESSION")
    session = client.open(seed=2)
    assert old.closed
    assert client.sessions == (session,)
    assert session.step().seq == 1


def test_a_server_may_come_back_and_nobody_notices(server: FakeServer) -> None:
    with Client(server.address, timeout=30) as client:
        session = client.open(seed=4)
        session.step(FORWARD)
        server.close()
        future = session.step_async(FORWARD)
        other = FakeServer(server.address)
        other.sessions = server.sessions
        assert future.result(20).index == 2
        assert session.step(FORWARD).index == 3
    other.close()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnansweredError, match=r"hello to ipc:.*start `worldsim serve`"):
        Client(f"ipc://{tmp_path}/nobody", timeout=0.2)
    with pytest.raises(BridgeError, match="address"):
        Client("udp://nobody")


@pytest.mark.slow
def test_heartbeats_keep_a_silent_client_alive(client: Client, server: FakeServer) -> None:
    server.heard.clear()
    assert server.heard.wait(10)


def test_a_closed_client_says_so(server: FakeServer) -> None:
    client = Client(server.address)
    session = client.open()
    client.close()
    client.close()
    assert not server.sessions
    with pytest.raises(BridgeError, match="open"):
        session.step()
    with pytest.raises(BridgeError, match="open"):
        client.open()


def test_what_is_under_way_at_the_end_is_answered(server: FakeServer) -> None:
    client = Client(server.address)
    session = client.open()
    server.faults.extend(["DEAF"] * 1000)
    futures = [session.step_async() for _ in range(500)]
    client.close(keep_sessions=True)
    assert not wait(futures, timeout=10).not_done
    assert all(isinstance(future.exception(), BridgeError) for future in futures)


def test_waiting_inside_a_callback_is_refused(client: Client) -> None:
    session, caught = client.open(), []

    def wait_there(_: object) -> None:
        try:
            session.step()
        except BridgeError as error:
            caught.append(error.rule)

    future = session.step_async()
    future.add_done_callback(wait_there)
    future.result(10)
    session.step()
    assert not caught or "callback" in caught[0]


def test_another_process_needs_its_own(client: Client) -> None:
    session = client.open()
    child = os.fork()
    if child == 0:
        try:
            session.step()
        except BridgeError as error:
            os._exit(0 if "process" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_keys_are_checked_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "own.secret").write_text("x" * 40 + "\n")
    (tmp_path / "server.public").write_text("y" * 40)
    keys = ClientKeys.read(tmp_path / "server.public", tmp_path / "own.secret")
    assert (keys.server, keys.secret) == ("y" * 40, "x" * 40)
    assert "xxx" not in repr(keys)
    with pytest.raises(BridgeError, match="40"):
        ClientKeys("short", "x" * 40)
    with pytest.raises(BridgeError, match="keys new"):
        ClientKeys.read(tmp_path / "none", tmp_path / "own.secret")


def test_it_brings_no_torch() -> None:
    code = "import sys, worldsim.bridge.client; print('torch' in sys.modules, 'gymnasium' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split()[0] == "False"
