"""Walks under fixed controls, and what it means that two of them are the same."""

from __future__ import annotations

import numpy as np

from worldsim.context import Context
from worldsim.controls import Control
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.engine.world import World

KEYS = ({"forward"}, {"forward", "turn_left"}, set(), {"strafe_right"}, {"turn_right"})


def control(t: int) -> Control:
    """The t-th control of a walk, the same in all tests."""
    return Control(KEYS[t % len(KEYS)], yaw=0.01 * (t % 3))


def walk(session: Session, steps: int, first: int = 0) -> list[Step]:
    return [session.step(control(t)) for t in range(first, first + steps)]


def assert_same(a: list[Step], b: list[Step]) -> None:
    """Equal bit for bit, in everything."""
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
        assert (one.pose is None) == (other.pose is None)
        if one.pose is not None:
            np.testing.assert_array_equal(one.pose, other.pose)
        for name in ("index", "reward", "terminated", "uncertainty", "surprise", "pose_given"):
            assert getattr(one, name) == getattr(other, name), name


def differ(a: list[Step], b: list[Step]) -> bool:
    return any(not np.array_equal(one.frame, other.frame) for one, other in zip(a, b, strict=True))


def given(world: World, frames: int = 3, seed: int = 0) -> Context:
    """A context of noise that fits ``world``, held under ``forward``."""
    rng = np.random.default_rng(seed)
    start = world.starts[0]
    controls = np.zeros((frames, world.spec.control_space.size), np.float32)
    controls[:, 0] = 1
    poses = None if start.poses is None else np.repeat(start.poses[:1], frames, 0)
    return Context(rng.integers(0, 256, (frames, *world.spec.size, 3), dtype=np.uint8), controls, poses)
