"""Training on episodes with continuous actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.rooms import write_walks
from worldsim.controls import ActionBox
from worldsim.data.clips import ClipStore
from worldsim.model.action import ActionConditionConfig
from worldsim.networks import Networks
from worldsim.training.latent_dynamics import LatentDynamicsRecipe
from worldsim.training.recipes import Recipe

BOX = ActionBox(low=(-1.0, 0.0), high=(1.0, 2.0))
LATENT = LatentDynamicsRecipe(
    channels=8, vae_width=8, vae_depth=1, width=16, head_width=16, vae_batch=4, batch=8, length=9
)


@pytest.mark.slow
@pytest.mark.parametrize("latent", [False, True])
def test_every_stage_runs_and_one_of_them_teaches_the_unknown_action(
    tmp_path: Path, recipe: Recipe, latent: bool
) -> None:
    lengths = {1: 20, 2: 16, 3: 20, 4: 18}
    clips = ClipStore(write_walks(tmp_path, lengths, poses=not latent, static=False, action=BOX))
    space = clips.spec.control_space
    assert space.action == BOX
    drawn = clips.sample(8, 5, np.random.default_rng(0)).controls[..., space.channels["action"]]
    assert drawn.shape == (8, 5, 3)
    assert set(np.unique(drawn[:, 1:, 0])) <= {0, 1}
    some = LATENT if latent else recipe
    torch.manual_seed(0)
    config = some.plan(clips.spec, clips.poses)
    assert config.conditions == (ActionConditionConfig(),)
    networks = Networks(config, clips.spec).train()
    fresh = networks.conditions.get_parameter("encoders.action.unknown").detach().clone()
    for stage in some.stages(networks, clips, warm=False):
        if stage.on_start is not None:
            stage.on_start()
        weights = [weight for group in stage.param_groups for weight in group.parameters]
        optimizer = torch.optim.Adam(weights, 1e-2)
        for step in range(4):
            optimizer.zero_grad()
            stage.objective(np.random.default_rng(step), step / 4)[0].backward()
            optimizer.step()
    assert not torch.equal(networks.conditions.get_parameter("encoders.action.unknown"), fresh)
