"""The Python client against ``worldsim serve`` of a tiny world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.bridge.server_process import ServerProcess, serving
from tests.tiny import lively_world
from tests.waiting import wait_until
from worldsim.bridge.auth.keys import add_client
from worldsim.bridge.client import (
    Client,
    ClientKeys,
    DeadlineExceededError,
    OutOfOrderError,
    PermissionDeniedError,
    RemoteSession,
    UnansweredError,
    UnavailableError,
    UnknownSessionError,
)
from worldsim.bridge.client.connection import ServerConnection
from worldsim.context import Context
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.engine.world import World, load
from worldsim.errors import BridgeError, ControlError, EngineError

pytestmark = pytest.mark.slow  # all share a server or a report that takes seconds

FORWARD, LEFT = Control({"forward"}), Control({"turn_left"})
SLOTS = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def loaded(world: Path) -> World:
    return load(world, device="cpu", dtype=torch.float32)


@pytest.fixture
def engine(loaded: World) -> Engine:
    return loaded.engine(slots=8, denoising_steps=1, rewind_frames=4)


@pytest.fixture(scope="module")
def server(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    address = f"ipc://{tmp_path_factory.mktemp('s')}/s"
    with serving(
        world, address, "--slots", str(SLOTS), "--denoising-steps", "1", "--rewind-frames", "4"
    ) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout=60) as client:
        yield client


def walk(session: RemoteSession, controls: list[Control]) -> list[np.ndarray]:
    return [session.step(control).frame for control in controls]


def real(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def coarse(frame: np.ndarray) -> np.ndarray:
    """Brightness of squares of 20 pixels: what is left of noise in a JPEG."""
    return frame.mean(-1).reshape(3, 20, 4, 20).mean((1, 3))


def test_frames_are_those_of_the_engine(client: Client, engine: Engine, loaded: World) -> None:
    for start in (None, 1, loaded.starts[1]):
        ours, theirs = engine.open(seed=2**63, start=start), client.open(seed=2**63, start=start)
        assert_array_equal(ours.frame, theirs.frame)
        for control in (FORWARD, LEFT, Control(yaw=0.1), Control(pose=ours.pose)):
            expected, got = ours.step(control), theirs.step(control)
            assert_array_equal(expected.frame, got.frame)
            assert_array_equal(expected.pose, got.pose)
            for name in ("pose_given", "reward", "terminated", "uncertainty", "index"):
                assert getattr(expected, name) == getattr(got, name)
            assert got.denoising_steps == 1


def test_a_real_frame_is_taken_as_the_engine_takes_it(client: Client, engine: Engine) -> None:
    ours, theirs = engine.open(seed=2), client.open(seed=2)
    frame = real(ours.frame.shape)
    expected, got = ours.observe(frame, ours.pose, FORWARD), theirs.observe(frame, ours.pose, FORWARD)
    assert_array_equal(got.frame, frame)
    assert theirs.frame is got.frame
    assert_array_equal(expected.pose, got.pose)
    for name in ("pose_given", "reward", "terminated", "uncertainty", "index", "denoising_steps"):
        assert getattr(expected, name) == getattr(got, name)
    assert_array_equal(ours.step(LEFT).frame, theirs.step(LEFT).frame)
    theirs.rewind(2)
    assert_array_equal(walk(theirs, [LEFT])[0], walk(client.open(seed=2), [LEFT])[0])
    with pytest.raises(EngineError, match="needs its pose"):
        theirs.observe(frame)
    with pytest.raises(EngineError, match="a pose"):
        theirs.observe(frame, np.ones((4, 4)))
    assert theirs.observe(frame, ours.pose).seq == 5


def test_forks_rewinds_and_snapshots_dream_the_same(client: Client) -> None:
    session = client.open(seed=1)
    walk(session, [FORWARD, LEFT])
    blob = session.snapshot()
    twins = [*session.fork(2), client.restore(blob)]
    future = walk(session, [FORWARD, FORWARD])
    for twin in twins:
        for a, b in zip(future, walk(twin, [FORWARD, FORWARD]), strict=True):
            assert_array_equal(a, b)
    session.rewind(2)
    assert_array_equal(walk(session, [FORWARD])[0], future[0])


def test_a_temperature_is_the_engines(client: Client, engine: Engine) -> None:
    remote, local = client.open(seed=9, temperature=0.0), engine.open(seed=9, temperature=0.0)
    for control in (FORWARD, LEFT, LEFT):
        assert_array_equal(remote.step(control).frame, local.step(control).frame)
    with pytest.raises(BridgeError, match="temperature"):
        client.open(temperature=11.0)


def test_what_frames_come_as(client: Client) -> None:
    raw, jpeg, latent, none = client.open(seed=4).fork(4)
    picture, compressed = raw.step(FORWARD).frame, jpeg.step(FORWARD, codec="jpeg").frame
    assert np.abs(coarse(picture) - coarse(compressed)).max() < 12
    code = latent.step(FORWARD, codec="latent").latent
    assert code.shape == client.world.latent
    assert none.step(FORWARD, codec="none").frame is None
    assert_array_equal(walk(none, [LEFT])[0], walk(raw, [LEFT])[0])


@pytest.mark.parametrize("codec", ["raw", "jpeg", "latent", "none"])
def test_many_at_once_are_as_one_by_one(client: Client, codec: str) -> None:
    sessions = [client.open(seed=i) for i in range(3)]
    twins = [session.fork()[0] for session in sessions]
    steps = client.step_many(dict.fromkeys(sessions, FORWARD), codec=codec)
    for session, twin in zip(sessions, twins, strict=True):
        alone = twin.step(FORWARD, codec=codec)
        for got, expected in ((steps[session].frame, alone.frame), (steps[session].latent, alone.latent)):
            assert (got is None) == (expected is None)
            if got is not None:
                assert_array_equal(got, expected)


def test_futures(client: Client) -> None:
    sessions = [client.open(seed=i) for i in range(3)]
    futures = [session.step_async(FORWARD, codec="none") for _ in range(30) for session in sessions]
    assert [future.result().seq for future in futures] == [n for n in range(1, 31) for _ in range(3)]


def test_refusals(client: Client) -> None:
    session = client.open(seed=0)
    with pytest.raises(EngineError, match="rewind"):
        session.rewind(99)
    with pytest.raises(EngineError, match="start"):
        client.open(start=99)
    with pytest.raises(EngineError, match="snapshot"):
        client.restore(b"nonsense")
    session.resync(6)
    with pytest.raises(OutOfOrderError):
        session.step()
    assert client.resume() == (session,)
    assert session.step(FORWARD).seq == 1


def test_what_comes_too_late_is_not_done(client: Client) -> None:
    session, *others = client.open(seed=0).fork(4)

    def hurry() -> None:
        """The engine is busy at nearly every try."""
        for _ in range(500):
            for other in others:
                other.step_async(codec="none")
            session.step(deadline=0.001, codec="none")

    with pytest.raises(DeadlineExceededError):
        hurry()
    taken = session.seq
    assert session.step().seq == taken + 1


def test_a_full_server_says_so(server: ServerProcess) -> None:
    with Client(server.address, timeout=60) as client:
        sessions = client.open().fork(SLOTS - 1)
        client.timeout = 0.5
        with pytest.raises((UnavailableError, UnansweredError)):
            client.open()
        client.timeout = 60
        sessions[0].close()
        client.open()


def test_sessions_belong_to_their_lease(client: Client, server: ServerProcess) -> None:
    session = client.open(seed=3)
    session.step(FORWARD)
    with Client(server.address) as other, pytest.raises((PermissionDeniedError, UnknownSessionError)):
        RemoteSession(other, session.name).step()
    client.close(keep_sessions=True)
    with Client(server.address, lease=client.lease) as again:
        assert [(one.name, one.seq) for one in again.sessions] == [(session.name, 1)]
        again.sessions[0].step(FORWARD)
    with Client(server.address) as other:
        assert other.info()["sessions"] == 0


def test_a_crash_is_not_noticed(world: Path, engine: Engine, tmp_path: Path) -> None:
    options = ("--slots", "4", "--denoising-steps", "1", "--journal", str(tmp_path / "state"))
    server = ServerProcess(world, f"ipc://{tmp_path}/s", *options)
    try:
        with Client(server.address, timeout=90) as client:
            session, ours = client.open(9, temperature=0.5), engine.open(9, temperature=0.5)
            frame, pose = real(ours.frame.shape), ours.pose
            futures = [session.step_async(FORWARD), session.observe_async(frame, pose)]
            futures += [session.step_async(FORWARD), session.observe_async(frame, pose)]
            futures += [session.step_async(FORWARD) for _ in range(2)]
            expected = [
                (ours.observe(frame, pose) if number in (1, 3) else ours.step(FORWARD)).frame
                for number in range(6)
            ]
            futures[2].result()
            server.kill()
            server = ServerProcess(world, server.address, *options)
            for frame, future in zip(expected, futures, strict=True):
                assert_array_equal(frame, future.result().frame)
            assert_array_equal(session.step(LEFT).frame, ours.step(LEFT).frame)
    finally:
        server.stop()


def test_keys(world: Path, tmp_path: Path) -> None:
    keys, stranger = tmp_path / "keys", tmp_path / "stranger"
    own = add_client(keys, "robot")
    other = add_client(stranger, "robot")
    with serving(
        world, f"ipc://{tmp_path}/s", "--denoising-steps", "1", "--slots", "2", "--keys", str(keys)
    ) as server:
        with Client(server.address, ClientKeys.read(keys / "server.public", own)) as client:
            assert client.open().step(FORWARD).seq == 1
        with pytest.raises(PermissionDeniedError, match="key"):
            Client(server.address, ClientKeys.read(keys / "server.public", other), timeout=20)
        # The refusal may come before the first request: libzmq tells it once.
        late = ServerConnection(server.address, ClientKeys.read(keys / "server.public", other))
        wait_until(lambda: all(channel.dealer.refused for channel in late._channels), "both are refused")
        with pytest.raises(PermissionDeniedError, match="key"):
            late.request({"op": "info"}, seconds=20, control=True).result()
        late.close()
        with pytest.raises(UnansweredError):
            Client(server.address, timeout=1.0)


def test_names_of_keys_are_controls(client: Client) -> None:
    session, other = client.open(5), client.open(5)
    expected = session.step(FORWARD)
    assert_array_equal(other.step("forward").frame, expected.frame)
    steps = client.step_many({session: ["turn_left"], other: LEFT})
    assert_array_equal(steps[session].frame, steps[other].frame)
    with pytest.raises(ControlError, match="forward"):
        session.step({"forwrad"})
    with pytest.raises(ControlError, match=r"give \{session: Control"):
        client.step_many([session])  # type: ignore[arg-type]
    with pytest.raises(ControlError, match="a list of controls"):
        session.step_chunk("forward")
    with pytest.raises(EngineError, match="a number or a Context"):
        client.open(start="doom")  # type: ignore[arg-type]


def test_given_frames_take_a_list_of_controls(client: Client, loaded: World) -> None:
    start = loaded.starts[0].newest(2)
    held = Context(start.frames, [None, {"forward"}], start.poses)
    vectors = np.stack([loaded.spec.control_space.vector(Control(keys)) for keys in ((), ("forward",))])
    one, other = client.open(7, held), client.open(7, Context(start.frames, vectors, start.poses))
    assert_array_equal(one.step(FORWARD).frame, other.step(FORWARD).frame)
