"""Worlds without a static scene, conditioned on keys and on the camera's motion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.rooms import write_walks
from tests.training.test_latent_dynamics import TINY as LATENT_DYNAMICS
from tests.training.test_next_scale import TINY as NEXT_SCALE
from worldsim.camera import from_planar
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.controls import Control
from worldsim.data.clips import ClipStore
from worldsim.engine.world import load
from worldsim.errors import ConfigError
from worldsim.networks import Networks
from worldsim.training.starts import choose_starts

RECIPES = {
    "latent-dynamics": (replace(LATENT_DYNAMICS, conditioning="both"), "dynamics"),
    "next-scale": (replace(NEXT_SCALE, conditioning="both"), "generator"),
}
"""A recipe, and its stage in which the camera's motion is learnt."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_world_with_poses_learns_the_cameras_motion_and_takes_given_poses(
    name: str, tmp_path: Path
) -> None:
    data = write_walks(tmp_path / "posed", {1: 60, 3: 40, 20: 40})
    clips, (recipe, learning) = ClipStore(data), RECIPES[name]
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec).train()
    assert networks.has_poses
    motion = _train(recipe, networks, clips, learning)
    assert np.mean(motion[-5:]) < np.mean(motion[:5])
    config = WorldConfig(name="walks", source=clips.spec, networks=networks.config)
    starts = choose_starts(ClipStore(data, split="held_out"))
    save_world(tmp_path / "walks", config, networks, starts, "# walks\n")
    session = load(tmp_path / "walks", device="cpu", dtype=torch.float32).engine(slots=2).open(seed=3)
    given = from_planar(0.3, 0.1, 0.0, 0.2)
    step = session.step(Control(pose=given))
    assert step.pose is not None
    np.testing.assert_allclose(step.pose, given, atol=1e-6)
    moved = session.step(Control({"forward"})).pose
    assert moved is not None
    assert (moved != given).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_stage_of_outcomes_leaves_the_motion_as_it_is(name: str, tmp_path: Path) -> None:
    clips, (recipe, _) = ClipStore(write_walks(tmp_path / "posed", {1: 60, 20: 40})), RECIPES[name]
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec).train()
    outcome = recipe.stages(networks, clips, warm=False)[-1]
    learnt = {id(weight) for group in outcome.param_groups for weight in group.parameters}
    assert learnt == {id(weight) for weight in networks.heads.outcome.parameters()}
    loss, _ = outcome.objective(np.random.default_rng(0), 0.0)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", RECIPES)
def test_poses_need_a_source_that_has_them(name: str, tmp_path: Path) -> None:
    data = write_walks(tmp_path / "walks", {1: 20, 20: 10}, poses=False)
    with pytest.raises(ConfigError, match="conditioning=keys"):
        RECIPES[name][0].plan(ClipStore(data).spec, None)


def _train(recipe: Any, networks: Networks, clips: ClipStore, learning: str) -> list[float]:
    """Train the stage ``learning`` for 40 steps; the loss of motion in each."""
    stages = recipe.stages(networks, clips, warm=False)
    stage = next(stage for stage in stages if stage.name == learning)
    optimizer = torch.optim.Adam([w for group in stage.param_groups for w in group.parameters], 3e-3)
    if stage.on_start is not None:
        stage.on_start()
    motion = []
    for step in range(40):
        loss, logs = stage.objective(np.random.default_rng(step), step / 40)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        motion.append(float(logs["motion_loss"]))
    return motion
