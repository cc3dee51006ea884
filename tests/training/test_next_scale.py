"""The next-scale recipe, from a dataset to a world that plays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.rooms import write_walks
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.controls import Control
from worldsim.data.clips import ClipStore
from worldsim.engine.world import load
from worldsim.errors import ConfigError
from worldsim.networks import Networks
from worldsim.sampling.control_batch import ControlBatch
from worldsim.training.latent_dynamics import LatentDynamicsRecipe
from worldsim.training.next_scale import NextScaleRecipe
from worldsim.training.starts import choose_starts
from worldsim.units import FrameUnitConfig

TINY = NextScaleRecipe(
    bits=4,
    pool=3,
    tokenizer_width=8,
    token_width=8,
    tokenizer_depth=1,
    steady=0.01,
    width=16,
    layers=1,
    heads=2,
    context=3,
    tokenizer_batch=10,
    batch=4,
    length=5,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("walks"), {1: 60, 3: 40, 20: 40}, poses=False)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 3])
def test_all_stages_learn_and_the_world_plays(data: Path, tmp_path: Path, frames: int) -> None:
    clips, recipe = ClipStore(data), replace(TINY, frames=frames)
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, None), clips.spec).train()
    for stage in recipe.stages(networks, clips, warm=False):
        weights = [weight for group in stage.param_groups for weight in group.parameters]
        optimizer = torch.optim.Adam(weights, 3e-3)
        losses = []
        for step in range(30):
            loss, logs = stage.objective(np.random.default_rng(step), step / 30)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert all(np.isfinite(float(value)) for value in logs.values())
        assert np.mean(losses[5:10] if stage.name == "tokenizer" else losses[-5:]) < np.mean(losses[:5])
    config = WorldConfig(name="walks", source=clips.spec, networks=networks.config)
    starts = choose_starts(ClipStore(data, split="held_out"))
    save_world(tmp_path / "walks", config, networks, starts, "# walks\n")
    world = load(tmp_path / "walks", device="cpu", dtype=torch.float32)
    assert world.unit_frames == frames
    session = world.engine(slots=3).open(seed=3)
    twin = session.fork()[0]
    steps = [[one.step(Control({"forward"})) for _ in range(4)] for one in (session, twin)]
    for mine, other in zip(*steps, strict=True):
        assert (mine.frame == other.frame).all()
        assert mine.terminated == other.terminated
    assert (steps[0][0].frame != steps[0][3].frame).any()
    batch = world.batch(2)
    batch.begin([0, 1], [3, 4], [None, None])
    held = ControlBatch(np.stack([world.spec.control_space.vector(Control({"forward"}))] * 2))
    for mine in steps[0]:  # the same as a session's
        assert (batch.step(held).rows()[0].frame == mine.frame).all()


def test_latents_of_several_frames_take_no_poses(data: Path) -> None:
    with pytest.raises(ConfigError, match="choose frames=1"):
        replace(TINY, frames=4, conditioning="both").plan(ClipStore(data).spec, None)


def test_clips_of_the_wrong_unit_are_refused(data: Path) -> None:
    spec = ClipStore(data).spec
    planned = replace(TINY, frames=2).plan(spec, None)
    with pytest.raises(ConfigError, match="next-scale"):
        Networks(replace(planned, unit=FrameUnitConfig()), spec)


def test_networks_of_another_recipe_are_refused(data: Path) -> None:
    clips = ClipStore(data)
    other = LatentDynamicsRecipe(channels=8, vae_width=8, vae_depth=1, width=16, head_width=16, heads=2)
    networks = Networks(other.plan(clips.spec, None), clips.spec)
    with pytest.raises(ConfigError, match="bits on several scales"):
        TINY.stages(networks, clips, warm=True)
