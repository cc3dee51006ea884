"""Training on episodes with prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.rooms import write_walks
from worldsim.data.clips import ClipStore
from worldsim.model.prompt import PromptConditionConfig
from worldsim.networks import Networks
from worldsim.training.camera_paths import CameraPaths
from worldsim.training.latent_dynamics import LatentDynamicsRecipe
from worldsim.training.recipes import Recipe

LATENT = LatentDynamicsRecipe(
    channels=8, vae_width=8, vae_depth=1, width=16, head_width=16, vae_batch=4, batch=8, length=9
)


def prompted(root: Path, *, poses: bool) -> ClipStore:
    lengths = {1: 20, 2: 16, 3: 20, 4: 18}
    return ClipStore(write_walks(root, lengths, poses=poses, static=False, prompts=("rain", "snow")))


def test_the_camera_moves_by_keys_and_yaw_alone(tmp_path: Path) -> None:
    clips = prompted(tmp_path, poses=True)
    path = CameraPaths(clips).sample(8, 5, np.random.default_rng(0))
    assert path.controls.shape == (8, 5, clips.spec.control_space.motion_size)
    assert clips.sample(8, 5, np.random.default_rng(0)).controls.shape[-1] == clips.spec.control_space.size


@pytest.mark.slow
@pytest.mark.parametrize("latent", [False, True])
def test_every_stage_runs_and_one_of_them_teaches_the_prompts(
    tmp_path: Path, recipe: Recipe, latent: bool
) -> None:
    clips = prompted(tmp_path, poses=not latent)
    some = LATENT if latent else recipe
    torch.manual_seed(0)
    config = some.plan(clips.spec, clips.poses)
    assert config.conditions == (PromptConditionConfig(),)
    networks = Networks(config, clips.spec).train()
    for stage in some.stages(networks, clips, warm=False):
        if stage.on_start is not None:
            stage.on_start()
        weights = [weight for group in stage.param_groups for weight in group.parameters]
        optimizer = torch.optim.Adam(weights, 1e-2)
        for step in range(4):
            optimizer.zero_grad()
            stage.objective(np.random.default_rng(step), step / 4)[0].backward()
            optimizer.step()
    trained = dict(networks.conditions.named_parameters())
    assert bool((trained["encoders.prompt.unknown"] != 0).any())
    torch.manual_seed(0)
    fresh = dict(Networks(config, clips.spec).conditions.named_parameters())
    assert not torch.equal(trained["encoders.prompt.table"], fresh["encoders.prompt.table"])
