"""Worlds that are always stepped together dream what sessions dream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engine.walks import assert_same, control, given
from worldsim import camera
from worldsim.controls import Control
from worldsim.engine.world import World
from worldsim.errors import ConfigError, EngineError
from worldsim.sampling.control_batch import ControlBatch

COUNT = 5
SEEDS = [3, 2**64 - 1, 0, 7, 2]
STARTS = [0, 1, None, 1, 0]


def led(world: World, controls: list[Control]) -> ControlBatch:
    vector = np.stack([world.spec.control_space.vector(one) for one in controls]).astype(np.float32)
    if all(one.pose is None for one in controls):
        return ControlBatch(vector)
    poses = np.stack([np.eye(4) if one.pose is None else one.pose for one in controls])
    return ControlBatch(vector, poses, np.array([one.pose is not None for one in controls]))


def test_it_dreams_what_sessions_dream(any_world: World) -> None:
    batch, engine = any_world.batch(COUNT, denoising_steps=2), any_world.engine(COUNT, denoising_steps=2)
    batch.begin(range(COUNT), SEEDS, STARTS)
    sessions = [engine.open(seed, start) for seed, start in zip(SEEDS, STARTS, strict=True)]
    assert_same(list(batch.now.rows()), [session.last for session in sessions])
    for t in range(3):
        held = [control(t + i) for i in range(COUNT)]
        steps = batch.step(led(any_world, held))
        told = engine.step(dict(zip(sessions, held, strict=True)))
        rows = list(steps.rows())
        assert_same(rows, list(told.values()))
        for one, other in zip(rows, told.values(), strict=True):
            np.testing.assert_array_equal(one.latent, other.latent)
    assert steps.seed.tolist() == [3, -1, 0, 7, 2]
    assert not steps.frame.is_inference()  # a learner's gradients may pass


def test_poses_given_to_some(world: World) -> None:
    batch, engine = world.batch(3, denoising_steps=1), world.engine(3, denoising_steps=1)
    batch.begin(range(3), [0, 1, 2], [0, 0, 0])
    sessions = [engine.open(seed, 0) for seed in range(3)]
    held = [Control({"forward"}), Control(pose=camera.from_planar(2.2, 1.9, 1.3, 0.4)), Control()]
    assert_same(
        list(batch.step(led(world, held)).rows()),
        list(engine.step(dict(zip(sessions, held, strict=True))).values()),
    )


def test_some_begin_anew_and_the_others_go_on(any_world: World) -> None:
    batch, engine = any_world.batch(3, denoising_steps=1), any_world.engine(3, denoising_steps=1)
    context = given(any_world)
    batch.begin(range(3), [0, 1, 2], [0, 0, 0])
    before = batch.step(led(any_world, [control(0)] * 3))
    kept = before.frame.clone()
    batch.begin([2, 0], [8, 9], [context, 1])
    assert torch.equal(before.frame, kept)
    twins = [engine.open(9, 1), engine.open(1, 0), engine.open(8, context)]
    twins[1].step(control(0))
    assert_same(list(batch.now.rows()), [twin.last for twin in twins])
    told = engine.step(dict.fromkeys(twins, control(1)))
    assert_same(list(batch.step(led(any_world, [control(1)] * 3)).rows()), list(told.values()))


def test_restarts_that_the_host_does_not_know_of(any_world: World) -> None:
    known, unknown = any_world.batch(4, denoising_steps=1), any_world.batch(4, denoising_steps=1)
    for batch in (known, unknown):
        batch.begin(range(4), [0, 1, 2, 3], [0, 1, 0, 1])
    for t, mask in enumerate(([1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1])):
        seeds, starts = torch.arange(4) + 10 * t, torch.tensor([1, 1, 0, 0])
        rows = [i for i in range(4) if mask[i]]
        known.begin(rows, seeds[rows].tolist(), starts[rows].tolist())
        unknown.restart(torch.tensor(mask, dtype=torch.bool), seeds, starts)
        assert_same(list(known.now.rows()), list(unknown.now.rows()))
        assert known.now.seed.tolist() == unknown.now.seed.tolist()
        steps = [batch.step(led(any_world, [control(t)] * 4)) for batch in (known, unknown)]
        assert_same(list(steps[0].rows()), list(steps[1].rows()))


def test_nothing_begins_if_one_cannot(world: World) -> None:
    batch = world.batch(2, denoising_steps=1)
    batch.begin([0, 1], [0, 1], [0, 1])
    before = batch.now
    with pytest.raises(EngineError, match="start must be in"):
        batch.begin([0, 1], [5, 6], [0, 99])
    assert batch.now is before


def test_refusals(world: World) -> None:
    with pytest.raises(EngineError, match="at least one"):
        world.batch(0)
    with pytest.raises(EngineError, match="context"):
        world.batch(1, context=1)
    with pytest.raises(ConfigError, match="denoising_steps"):
        world.batch(1, denoising_steps=3)
