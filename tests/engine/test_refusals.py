"""What an engine refuses, in typed errors; and nothing has moved then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.engine.walks import assert_same, given, walk
from worldsim.context import Context
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.world import World, load
from worldsim.errors import CameraError, ConfigError, ControlError, EngineError, WorldsimError

MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


def closed(engine: Engine) -> Session:
    session = engine.open(1)
    session.close()
    return session


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (Control({"foward"}), ControlError, "forward"),
        (Control(pose=MIRROR), CameraError, "rotation"),
        (Control(prompt="a door"), ControlError, "prompt"),
    ],
    ids=["unknown key", "no rotation", "prompt"],
)
def test_a_refused_control_moves_nobody(
    world: World, bad: Control, error: type[WorldsimError], words: str
) -> None:
    engine, twin = world.engine(3), world.engine(3).open(3, 0)
    session, other = engine.open(3, 0), engine.open(4, 0)
    walk(session, 1), walk(twin, 1)
    before = (session.last, session.max_rewind, other.last, other.max_rewind)
    with pytest.raises(error, match=words):
        engine.step({session: Control({"forward"}), other: bad})
    assert (session.last, session.max_rewind, other.last, other.max_rewind) == before
    assert_same(walk(session, 2, first=1), walk(twin, 2, first=1))


def test_a_pose_needs_a_world_with_poses(poseless: World) -> None:
    session = poseless.engine(1).open()
    with pytest.raises(ControlError, match="pose"):
        session.step(Control(pose=np.eye(4)))
    assert session.max_rewind == 0


@pytest.mark.parametrize("use", [
    lambda session: session.step(),
    lambda session: session.fork(),
    lambda session: session.snapshot(),
    lambda session: session.rewind(),
])  # fmt: skip
def test_a_closed_session_is_refused(world: World, use: Callable[[Session], object]) -> None:
    engine = world.engine(2)
    session = engine.open()
    walk(session, 2)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        use(session)
    assert session.max_rewind == 2
    assert engine.free == 2


def test_a_session_of_another_engine_is_refused(world: World) -> None:
    engine, other = world.engine(2), world.engine(2)
    own, foreign = engine.open(), other.open()
    with pytest.raises(EngineError, match="another engine"):
        engine.step({own: Control(), foreign: Control()})
    assert own.max_rewind == foreign.max_rewind == 0
    engine.close(foreign)
    assert not foreign.closed


def test_one_closed_session_in_a_batch_stops_it(world: World) -> None:
    engine = world.engine(3)
    session = engine.open()
    with pytest.raises(EngineError, match="closed"):
        engine.step({session: Control(), closed(engine): Control()})
    assert session.max_rewind == 0


@pytest.mark.parametrize("frames", [0, -1, 3])
def test_a_rewind_beyond_the_history_is_refused(world: World, frames: int) -> None:
    session = world.engine(1).open()
    steps = walk(session, 2)
    with pytest.raises(EngineError, match="within the 2 frames"):
        session.rewind(frames)
    assert session.last is steps[-1]
    assert session.max_rewind == 2


def test_without_a_free_slot_nothing_is_opened(world: World) -> None:
    engine = world.engine(2)
    session = engine.open()
    blob = session.snapshot()
    with pytest.raises(EngineError, match="room for"):
        session.fork(2)
    with pytest.raises(EngineError, match="at least one"):
        session.fork(0)
    with pytest.raises(EngineError, match="as many seeds"):
        session.fork(1, [1, 2])
    assert engine.free == 1
    session.fork()
    for take in (lambda: engine.open(), lambda: engine.restore(blob)):
        with pytest.raises(EngineError, match="room for"):
            take()
    assert engine.free == 0


@pytest.mark.parametrize("start", [2, -1, 99])
def test_a_start_that_is_not_there(world: World, start: int) -> None:
    engine = world.engine(1)
    with pytest.raises(EngineError, match=r"start must be in 0\.\.1"):
        engine.open(0, start)
    assert engine.free == 1


def without(context: Context, **changes: object) -> Context:
    return dataclasses.replace(context, **changes)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: without(c, frames=c.frames[:, :30]), "60x80"),
        (lambda c: without(c, controls=c.controls[:, :4]), "7 columns"),
        (lambda c: without(c, poses=None), "with poses"),
    ],
    ids=["size", "controls", "poses"],
)
def test_a_context_that_does_not_fit(world: World, spoil: Callable[[Context], Context], words: str) -> None:
    engine = world.engine(1)
    with pytest.raises(EngineError, match=words):
        engine.open(0, spoil(given(world)))
    assert engine.free == 1


def test_a_context_longer_than_the_engine_s(world: World) -> None:
    with pytest.raises(EngineError, match="at most 6 frames"):
        world.engine(1).open(0, given(world, frames=7))
    assert world.engine(1, context=7).open(0, given(world, frames=7)).index == 6
    with pytest.raises(EngineError, match="at most 2 frames"):
        world.engine(1, context=2).open(0, given(world))


def test_a_context_whose_poses_are_none(world: World) -> None:
    engine, context = world.engine(1), given(world)
    with pytest.raises(CameraError, match="rotation"):
        engine.open(0, without(context, poses=np.repeat(MIRROR[None], 3, 0)))
    assert engine.free == 1


def test_a_world_without_starts_needs_given_frames(world: World) -> None:
    stored = dataclasses.replace(world._stored, starts=())
    bare = World(stored, world.device, world.dtype)
    with pytest.raises(EngineError, match="given frames"):
        bare.engine(1).open()
    assert bare.engine(1).open(0, given(world)).index == 2


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"context": 1}, {"context": 0}, {"rewind_frames": -1}])
def test_an_engine_of_no_size(world: World, wrong: dict[str, int]) -> None:
    with pytest.raises(EngineError, match="engine"):
        world.engine(**wrong)


def test_other_numbers_of_passes(world: World) -> None:
    with pytest.raises(ConfigError, match="denoising steps"):
        world.engine(denoising_steps=3)
    engine = world.engine(1)
    with pytest.raises(ConfigError, match="denoising steps"):
        engine.denoising_steps = 8
    assert engine.denoising_steps == 2


def test_a_device_that_is_not_there(world: World) -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(EngineError, match="device must exist"):
            load("doom-maze", device)
