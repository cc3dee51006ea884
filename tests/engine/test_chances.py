"""Surprise and uncertainty of worlds of bits: told at play, kept by snapshots, the same in every batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contracts.worlds import Parts, write_world
from tests.engine.test_forged_snapshots import resealed
from tests.engine.walks import assert_same, control, walk
from worldsim.camera import from_planar
from worldsim.compression.frames import surprise
from worldsim.context import Context
from worldsim.controls import Control
from worldsim.engine.step import Step
from worldsim.engine.world import World, load
from worldsim.errors import EngineError
from worldsim.sampling.control_batch import ControlBatch

PARTS = Parts("next-scale", "bits", "next-scale", "next-scale", prior="none")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = write_world(tmp_path_factory.mktemp("chances") / "tiny", PARTS, poses=False)
    return load(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def posed(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(write_world(tmp_path_factory.mktemp("chances") / "posed", PARTS), "cpu", torch.float32)


def real(world: World, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*world.spec.size, 3), dtype=np.uint8)


def bits(world: World) -> int:
    return int(np.prod(world.networks.tokenizer.latent_spec.shape))


def told(step: Step) -> tuple[float, float]:
    assert step.surprise is not None
    assert step.uncertainty is not None
    return step.surprise, step.uncertainty


POSE = from_planar(2.0, 2.0, 1.3, 0.0)


@pytest.mark.slow
def test_a_real_frame_has_the_surprise_that_it_is_compressed_by(world: World) -> None:
    frames, space = np.stack([real(world, seed) for seed in range(3)]), world.spec.control_space
    controls = np.zeros((3, space.size), np.float32)
    session = world.engine(1).open(0, Context(frames[:1], controls[:1]))
    assert session.last.surprise == bits(world)  # it follows nothing
    seen = [session.observe(frame) for frame in frames[1:]]
    wanted = surprise(world, frames, controls)[1:]  # of chances on a grid of 2^-16
    np.testing.assert_allclose([step.surprise for step in seen], wanted, rtol=1e-3)
    assert [step.uncertainty for step in seen] == [0.0, 0.0]


@pytest.mark.slow
def test_imagined_frames_are_as_uncertain_as_their_bits(world: World) -> None:
    session = world.engine(1).open(1, 0)
    for step in walk(session, 3):
        surprised, uncertain = told(step)
        assert 0 < surprised < 2 * bits(world)
        assert 0 < uncertain < 1
        assert step.denoising_steps == len(world.networks.sampler.allowed_steps)


@pytest.mark.slow
def test_poses_make_frames_more_uncertain_still(posed: World) -> None:
    session, given = posed.engine(1).open(1, 0), Control(pose=POSE)
    assert told(session.observe(real(posed), POSE))[1] == 0
    sure = told(session.step(given))[1]
    assert 0 < sure < 1
    session.rewind()
    assert told(session.step())[1] > sure  # the pose is predicted


@pytest.mark.slow
def test_a_coarse_frame_counts_the_bits_that_were_drawn(world: World) -> None:
    twins = world.engine(1, denoising_steps=1).open(1, 0), world.engine(1).open(1, 0)
    coarse, fine = (told(one.step())[0] for one in twins)
    assert 0 < coarse < fine


@pytest.mark.slow
def test_forks_snapshots_and_other_batches_tell_the_same(world: World) -> None:
    engine = world.engine(4, rewind_frames=2)
    session, *others = [engine.open(seed, 0) for seed in range(3)]
    session.observe(real(world))
    blob = session.snapshot()
    back = world.engine(1).restore(blob)
    assert told(back.last) == told(session.last)
    alone, (fork,) = walk(back, 2), session.fork()
    assert_same(walk(fork, 2), alone)
    together = [engine.step(dict.fromkeys((*others, session), control(t)))[session] for t in range(2)]
    assert_same(together, alone)
    session.rewind(2)
    assert_same(walk(session, 2), alone)


@pytest.mark.slow
def test_batches_of_worlds_tell_the_same_as_sessions(world: World) -> None:
    batch, engine = world.batch(3), world.engine(3)
    batch.begin([0, 1, 2], [5, 6, 7], [0, 0, 0])
    sessions = [engine.open(seed, 0) for seed in (5, 6, 7)]
    first = [told(row) for row in batch.now.rows()]
    assert first == [told(one.last) for one in sessions]
    rows = batch.step(ControlBatch(np.zeros((3, world.spec.control_space.size), np.float32))).rows()
    steps = engine.step(dict.fromkeys(sessions)).values()
    assert [told(row) for row in rows] == [told(step) for step in steps]


@pytest.mark.slow
def test_worlds_without_chances_tell_no_surprise(tmp_path: Path) -> None:
    parts = Parts("frame", "frame", "transformer", "flow", prior="none")
    other = load(write_world(tmp_path / "flow", parts), "cpu", torch.float32)
    session = other.engine(1).open(0, 0)
    assert [session.last.surprise, session.step().surprise] == [None, None]
    assert session.observe(real(other), POSE).surprise is None
    assert other.batch(1).now.surprise is None
    assert not other.networks.knows_chances


@pytest.mark.slow
def test_a_snapshot_with_bits_of_another_scale_plan_is_refused(world: World) -> None:
    engine = world.engine(2)
    session = engine.open(1, 0)
    session.step()
    tokens, channels = world.networks.tokenizer.latent_spec.shape
    for shape in ((tokens - 1, channels), (tokens, channels + 1)):
        for name in ("latent", "generator.bits"):
            part = torch.ones(shape if name == "latent" else (1, *shape))
            with pytest.raises(EngineError, match="snapshot"):
                engine.restore(resealed(session.snapshot(), **{name: part}))
    assert engine.free == 1
