"""Nonsense poses are said: ``Step.known`` is False and the uncertainty 1 where a picture is made up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.engine.walks import given, walk
from tests.tiny import lively_world
from worldsim import camera
from worldsim.context import Context
from worldsim.controls import Control
from worldsim.engine.world import World, load
from worldsim.errors import CameraError
from worldsim.sampling.control_batch import ControlBatch

HERE = camera.from_planar(2.0, 2.0, 1.3, 0.5)


def turned(pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """The pose with degrees of pitch and roll."""
    turn = np.radians([pitch, 0.0, roll])
    return HERE @ camera.exp(np.concatenate([np.zeros(3), turn]))


def at(x: float, y: float, z: float = 1.3) -> np.ndarray:
    return camera.from_planar(x, y, z, 0.5)


NONSENSE: dict[str, np.ndarray] = {
    "100 m off": at(100, 100),
    "a planet off": at(1e9, 0),
    "above": at(2, 2, 20),
    "below": at(2, 2, -3),
    "world to camera": camera.inverse(HERE),
    "opengl axes": HERE @ np.diag([1.0, -1, -1, 1]),
    "z up as y up": HERE @ camera.exp(np.array([0, 0, 0, np.pi / 2, 0, 0])),
    "pitched by 20": turned(pitch=20),
    "pitched by -10": turned(pitch=-10),
    "rolled by 30": turned(roll=30),
    "upside down": turned(roll=180),
}
SENSE = {"here": HERE, "beside": at(2.5, 1.5), "all but level": turned(1, -1), "a step up": at(2, 2, 1.6)}


@pytest.fixture(scope="module")
def placeless(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With poses and without a static scene."""
    return load(lively_world(tmp_path_factory.mktemp("w"), "w", tokenizer="frame"), "cpu", torch.float32)


@pytest.mark.parametrize("name", NONSENSE)
def test_a_nonsense_pose_is_not_known(world: World, name: str) -> None:
    step = world.engine(1).open(3, 0).step(Control(pose=NONSENSE[name]))
    assert (step.known, step.uncertainty) == (False, 1.0)


@pytest.mark.parametrize("name", SENSE)
def test_a_pose_on_the_map_is_known(world: World, name: str) -> None:
    step = world.engine(1).open(3, 0).step(Control(pose=SENSE[name]))
    assert step.known
    assert step.uncertainty is not None
    assert step.uncertainty < 1


@pytest.mark.parametrize("name", ["100 m off", "a planet off", "opengl axes", "rolled by 30", "upside down"])
def test_without_a_static_scene_jumps_and_tilts_are_not_known(placeless: World, name: str) -> None:
    step = placeless.engine(1).open(3, 0).step(Control(pose=NONSENSE[name]))
    assert (step.known, step.uncertainty) == (False, 1.0)


@pytest.mark.parametrize("x", [1e10, 1e19, 1e300])
@pytest.mark.parametrize("kind", ["world", "placeless"])
def test_a_pose_beyond_numbers_is_refused(kind: str, x: float, request: pytest.FixtureRequest) -> None:
    one: World = request.getfixturevalue(kind)
    engine, far, context = one.engine(1), at(x, -x), given(one)
    with pytest.raises(CameraError, match="within 1e"):
        engine.open(0, Context(context.frames, context.controls, np.stack([far] * 3)))
    session = engine.open(0, 0)
    with pytest.raises(CameraError, match="within 1e"):
        session.step(far)
    with pytest.raises(CameraError, match="within 1e"):
        session.observe(context.frames[0], far)
    assert session.max_rewind == 0


@pytest.mark.parametrize("take", ["step", "observe", "context"])
def test_a_session_at_the_farthest_pose_stays_whole(world: World, placeless: World, take: str) -> None:
    for one in (world, placeless):
        engine, far, context = one.engine(2), at(1e9, -1e9), given(one)
        start = Context(context.frames[:1], poses=far) if take == "context" else 0
        session = engine.open(0, start)
        if take != "context":
            step = session.step(far) if take == "step" else session.observe(context.frames[0], far)
            assert not step.known
        for _ in range(3):
            step = session.step({"forward"})
        assert step.pose is not None
        assert np.isfinite([*step.pose.ravel(), step.reward, step.uncertainty]).all()
        again = engine.restore(session.snapshot())
        np.testing.assert_array_equal(again.step().frame, session.step().frame)


def test_without_a_static_scene_usual_steps_are_known(placeless: World) -> None:
    session = placeless.engine(1).open(3, 0)
    assert session.pose is not None
    ahead = session.pose @ camera.exp(np.array([0, 0, 0.1, 0, 0.05, 0]))
    assert session.step(Control(pose=ahead)).known
    assert all(session.step({"forward"}).known for _ in range(3))


def test_keys_come_back_from_where_nothing_is_known(world: World) -> None:
    session = world.engine(1).open(3, 0)
    assert session.step(at(50, 2)).known is False
    after = session.step({"forward"})
    assert (after.known, after.uncertainty, after.pose_given) == (False, 1.0, False)
    assert session.step(HERE).known
    session.rewind(1)
    assert session.last.known is False


def test_keys_that_random_weights_tilt_are_told_by_the_pose(world: World) -> None:
    session = world.engine(1).open(3, 0)
    for step in walk(session, 12):
        assert step.pose is not None
        assert step.known == (-step.pose[2, 1] >= np.cos(np.radians(3)) and abs(step.pose[2, 3] - 1.3) <= 0.5)


@pytest.mark.slow
def test_the_shipped_maze_knows_its_walks_and_no_nonsense() -> None:
    maze = load("doom-maze", "cpu")
    session = maze.engine(1).open(3, 0)
    held = [{"forward"}, {"forward", "turn_left"}, {"turn_right"}, {"backward"}]
    for t in range(80):
        step = session.step(held[t // 8 % 4])
        assert step.known
        assert step.uncertainty is not None
        assert step.uncertainty < 1
    assert step.pose is not None
    for pose in (
        camera.inverse(step.pose),
        step.pose @ np.diag([1.0, -1, -1, 1]),
        step.pose @ camera.exp(np.radians([0, 0, 0, 20, 0, 0])),
        step.pose @ camera.exp(np.radians([0, 0, 0, 0, 0, 30])),
        camera.from_planar(1e9, 0, step.pose[2, 3], 0),
    ):
        told = session.step(pose)
        assert (told.known, told.uncertainty) == (False, 1.0)
    assert session.step(step.pose).known


def test_it_is_kept_by_snapshots_and_forks(world: World) -> None:
    engine = world.engine(3)
    session = engine.open(3, 0)
    session.step(at(50, 2))
    assert engine.restore(session.snapshot()).last.known is False
    assert session.fork()[0].step().known is False


@pytest.mark.parametrize("name", ["100 m off", "opengl axes"])
def test_given_frames_at_nonsense_poses_are_not_known(world: World, name: str) -> None:
    context = given(world)
    session = world.engine(1).open(3, Context(context.frames, context.controls, [NONSENSE[name]] * 3))
    assert (session.last.known, session.last.uncertainty) == (False, 1.0)


def test_a_real_frame_is_true_wherever_it_is(world: World) -> None:
    session, context = world.engine(1).open(3, 0), given(world)
    step = session.observe(context.frames[0], at(50, 2))
    assert (step.known, step.uncertainty) == (False, 0.0)


def test_a_batch_says_the_same_row_by_row(world: World) -> None:
    batch, poses = world.batch(3, denoising_steps=1), np.stack([HERE, at(50, 2), turned(pitch=20)])
    batch.begin([0, 1, 2], [3, 3, 3], [0, 0, 0])
    assert batch.now.known.tolist() == [True] * 3
    vector = np.zeros((3, world.spec.control_space.size), np.float32)
    step = batch.step(ControlBatch(vector, poses, np.ones(3, bool)))
    assert step.known.tolist() == [True, False, False]
    assert step.uncertainty.tolist()[1:] == [1.0, 1.0]
    assert [row.known for row in step.rows()] == [True, False, False]
    engine = world.engine(3, denoising_steps=1)
    for row, pose in zip(step.rows(), poses, strict=True):
        assert engine.open(3, 0).step(pose).uncertainty == pytest.approx(row.uncertainty)


def test_a_world_without_poses_gives_no_number(poseless: World) -> None:
    engine = poseless.engine(2)
    session = engine.open(3, 0)
    assert session.last.uncertainty is None
    assert [session.step({"forward"}).uncertainty for _ in range(3)] == [None] * 3
    assert engine.restore(session.snapshot()).last.uncertainty is None
    frame = given(poseless).frames[0]
    assert session.observe(frame).uncertainty is None
    batch = poseless.batch(2, denoising_steps=1)
    batch.begin([0, 1], [3, 4], [0, 0])
    assert batch.now.uncertainty.isnan().all()
    step = batch.step(ControlBatch(np.zeros((2, poseless.spec.control_space.size), np.float32)))
    assert step.uncertainty.isnan().all()
    assert [row.uncertainty for row in step.rows()] == [None, None]


@pytest.mark.parametrize("read", [lambda step: step.frame, lambda step: step.latent])
def test_pictures_of_known_poses_stay_the_same(world: World, read: Callable[..., np.ndarray]) -> None:
    """What is said changes nothing that is shown."""
    steps = []
    for territory in (world.networks.territory, None):
        world.networks.territory, kept = territory, world.networks.territory
        try:
            steps.append(world.engine(1).open(3, 0).step(at(50, 2)))
        finally:
            world.networks.territory = kept
    np.testing.assert_array_equal(*map(read, steps))
