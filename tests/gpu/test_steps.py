"""Steps on a GPU: graphs show what launches show, and both nearly what a CPU shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.walks import assert_same, control, walk
from worldsim import camera
from worldsim.controls import Control
from worldsim.engine import cuda_graphs
from worldsim.engine.engine import Engine
from worldsim.engine.step import Step
from worldsim.engine.world import World, load
from worldsim.sampling import philox
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.noise import normal_batch

pytestmark = pytest.mark.gpu

POSED = Control(pose=camera.from_planar(2.2, 1.9, 1.3, 0.4))
NEAR = 3
"""Grey levels on average by which a GPU's frames may differ from a CPU's after some frames of float32."""


def assert_near(a: Step, b: Step, levels: float = NEAR) -> None:
    assert np.abs(a.frame.astype(float) - b.frame).mean() < levels
    assert (a.index, a.pose_given) == (b.index, b.pose_given)


def tour(engine: Engine) -> list[Step]:
    """Steps of one, two and three sessions, by keys and by poses, with frames and without."""
    sessions = [engine.open(seed, 0) for seed in range(3)]
    told = [session.step(control(t)) for t, session in enumerate(sessions)]
    told += engine.step({sessions[2]: control(1), sessions[0]: control(2)}).values()
    engine.step(dict.fromkeys(sessions, control(2)), frames=False)
    told += engine.step(dict.fromkeys(sessions, control(3))).values()
    engine.denoising_steps = 1
    told += engine.step(dict.fromkeys(sessions, control(4))).values()
    if engine.world.networks.has_poses:
        told.append(sessions[1].step(POSED))
    return told


def test_graphs_show_what_launches_show(any_world: World) -> None:
    captured = tour(any_world.engine(3, denoising_steps=2))
    with cuda_graphs.kernels_disabled():
        launched = tour(any_world.engine(3, denoising_steps=2))
    assert_same(captured, launched)


@pytest.mark.parametrize("denoising_steps", [1, 2, 4])
def test_frames_are_nearly_those_of_a_cpu(
    any_folder: Path, device: torch.device, denoising_steps: int
) -> None:
    here, there = (
        load(any_folder, name, torch.float32).engine(2, denoising_steps=denoising_steps)
        for name in ("cpu", device)
    )
    for one, other in zip(walk(here.open(5, 0), 4), walk(there.open(5, 0), 4), strict=True):
        assert_near(one, other)


def test_a_recorded_batch_goes_on_from_where_it_was(any_world: World) -> None:
    """The batch's steps are those of an engine's sessions; recording the graph moved nothing."""
    batch, engine = any_world.batch(2, denoising_steps=1), any_world.engine(2, denoising_steps=1)
    batch.begin([0, 1], [5, 6], [0, 1])
    sessions = [engine.open(5, 0), engine.open(6, 1)]
    for t in range(4):
        held = [control(t), control(t + 1)]
        vector = np.stack([any_world.spec.control_space.vector(one) for one in held]).astype(np.float32)
        steps = batch.step(ControlBatch(vector)).rows()
        told = engine.step(dict(zip(sessions, held, strict=True)))
        for one, other in zip(steps, told.values(), strict=True):
            assert abs(one.frame.astype(int) - other.frame).max() <= 2
            assert one.index == other.index


def test_what_a_batch_answers_stays(any_world: World) -> None:
    """A graph writes to the same memory every time; the caller's copy is the caller's."""
    batch = any_world.batch(2, denoising_steps=1)
    batch.begin([0, 1], [5, 6], [0, 0])
    vector = torch.zeros(2, any_world.spec.control_space.size, device=any_world.device)
    vector[:, 0] = 1
    first = batch.step(ControlBatch(vector))
    kept = first.frame.clone()
    for _ in range(3):
        batch.step(ControlBatch(vector))
    assert torch.equal(first.frame, kept)
    assert first.frame.device.type == any_world.device.type


def test_restarted_rows_are_as_new(any_world: World) -> None:
    """A restart that the device decides on is a ``begin``; the other row goes on untouched."""
    batch, other = any_world.batch(2, denoising_steps=1), any_world.batch(2, denoising_steps=1)
    for one in (batch, other):
        one.begin([0, 1], [5, 6], [0, 1])
    vector = torch.zeros(2, any_world.spec.control_space.size, device=any_world.device)
    for one in (batch, other):
        one.step(ControlBatch(vector))
    mask, seeds, starts = ([True, False], [9, 0], [1, 0])
    batch.restart(*(torch.tensor(list(part), device=any_world.device) for part in (mask, seeds, starts)))
    other.begin([0], [9], [1])
    assert torch.equal(batch.now.frame, other.now.frame)
    for _ in range(2):
        assert torch.equal(batch.step(ControlBatch(vector)).frame, other.step(ControlBatch(vector)).frame)


@pytest.mark.parametrize("shape", [(1,), (48, 96)])
def test_noise_is_that_of_the_host(device: torch.device, shape: tuple[int, ...]) -> None:
    seeds, indices = [0, 7, 2**63, 2**64 - 1], np.arange(4) * 1000
    signed = torch.tensor([philox.signed(seed) for seed in seeds], device=device)
    there = philox.normal_rows(signed, torch.from_numpy(indices).to(device), 0, shape)
    here = normal_batch(np.array(seeds, np.uint64), indices, 0, shape)
    np.testing.assert_allclose(there.cpu().numpy(), here, rtol=3e-7, atol=1e-12)


def test_every_size_of_batch_is_close(world: World) -> None:
    """A GPU may choose another product for another batch: last bits, no more."""
    alone, many = world.engine(1, denoising_steps=1), world.engine(9, denoising_steps=1)
    sessions = [many.open(seed, 0) for seed in range(9)]
    told = many.step(dict.fromkeys(sessions, control(0)))
    assert_near(alone.open(4, 0).step(control(0)), told[sessions[4]], 1)
