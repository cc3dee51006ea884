"""A real frame in the middle of a dream: the dream goes on from it, and nothing before it changes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.walks import assert_same, differ, walk
from worldsim import camera
from worldsim.controls import Control
from worldsim.engine.world import World
from worldsim.errors import CameraError, ControlError, EngineError


def real(world: World, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    frame = np.random.default_rng(seed).integers(0, 256, (*world.spec.size, 3), dtype=np.uint8)
    return frame, camera.from_planar(2.2, 1.9, 1.3, 0.4) if world.spec.has_pose else None


def test_the_dream_goes_on_from_the_real_frame(any_world: World) -> None:
    session = any_world.engine(2).open(seed=1, start=0)
    walk(session, 2)
    frame, pose = real(any_world)
    before, step = session.index, session.observe(frame, pose)
    np.testing.assert_array_equal(step.frame, frame)
    assert (step.index, step.denoising_steps) == (before + 1, 0)
    assert step.uncertainty == (0.0 if any_world.networks.has_poses else None)
    assert session.last is step
    if pose is not None:
        np.testing.assert_array_equal(step.pose, pose)
        assert step.pose_given
    frame[:] = 0
    assert step.frame.any()  # a copy


def test_an_anchor_moves_what_comes_after(any_world: World) -> None:
    engine = any_world.engine(2)
    a, b = engine.open(1, 0), engine.open(1, 0)
    frame, pose = real(any_world)
    a.observe(frame, pose)
    b.observe(255 - frame, pose)
    assert differ(walk(a, 2), walk(b, 2))


def test_an_anchor_is_rewound_like_a_step(any_world: World) -> None:
    engine = any_world.engine(2, rewind_frames=4)
    session, twin = engine.open(1, 0), engine.open(1, 0)
    walk(session, 1), walk(twin, 1)
    session.observe(*real(any_world))
    session.rewind(1)
    assert_same(walk(session, 3), walk(twin, 3))


def test_others_do_not_notice_an_anchor(any_world: World) -> None:
    engine = any_world.engine(2)
    session, other = engine.open(1, 0), engine.open(2, 1)
    alone = any_world.engine(1).open(2, 1)
    session.observe(*real(any_world))
    assert_same(walk(other, 2), walk(alone, 2))


def test_an_anchored_session_is_kept_and_restored(any_world: World) -> None:
    engine = any_world.engine(2)
    session = engine.open(1, 0)
    session.observe(*real(any_world))
    copy = engine.restore(session.snapshot())
    assert_same(walk(session, 2), walk(copy, 2))


def test_what_is_no_frame_of_the_world_is_refused(world: World) -> None:
    session = world.engine(1).open(0, 0)
    frame, pose = real(world)
    before = session.last
    for wrong in (frame[:-1], frame.astype(np.float32), frame[..., :1]):
        with pytest.raises(EngineError, match="a frame must be uint8"):
            session.observe(wrong, pose)
    with pytest.raises(EngineError, match="needs its pose"):
        session.observe(frame)
    with pytest.raises(CameraError):
        session.observe(frame, np.zeros((4, 4)))
    with pytest.raises(ControlError):
        session.observe(frame, pose, Control({"fly"}))
    assert session.last is before
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.observe(frame, pose)
