"""Rollouts of recorded clips, and their action gap."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.tiny import stir
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.training.imagination import CONTEXT_FRAMES, action_psnr_gap, imagine
from worldsim.training.recipes import Recipe


def build(recipe: Recipe, clips: ClipStore) -> Networks:
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec)
    networks.eval().requires_grad_(False)
    stir(networks)
    return networks


def test_a_rollout_starts_with_the_true_frames(recipe: Recipe, held_out: ClipStore) -> None:
    clip = held_out.sample(2, 8, np.random.default_rng(0))
    shown = torch.stack([*imagine(build(recipe, held_out), clip, given_poses=True)], 1)
    assert shown.shape == (2, 7, 3, 60, 80)
    true = torch.from_numpy(clip.frames).permute(0, 1, 4, 2, 3) / 127.5 - 1
    torch.testing.assert_close(
        shown[:, : CONTEXT_FRAMES - 1].float(), true[:, 1:CONTEXT_FRAMES], atol=0.01, rtol=0
    )
    assert (shown[:, CONTEXT_FRAMES - 1] - true[:, CONTEXT_FRAMES]).abs().mean() > 0.01


def test_cameras_go_where_they_are_told_or_where_keys_lead(recipe: Recipe, held_out: ClipStore) -> None:
    networks, clip = build(recipe, held_out), held_out.sample(2, 8, np.random.default_rng(0))
    told = [*imagine(networks, clip, given_poses=True)]
    led = [*imagine(networks, clip, given_poses=False)]
    assert torch.equal(told[CONTEXT_FRAMES - 2], led[CONTEXT_FRAMES - 2])
    assert not torch.equal(told[-1], led[-1])


@pytest.mark.slow
def test_the_gap_is_the_same_every_time_and_zero_where_keys_do_nothing(
    recipe: Recipe, held_out: ClipStore
) -> None:
    networks = build(recipe, held_out)
    gap = action_psnr_gap(networks, held_out, rows=3, frames=6)
    assert gap == action_psnr_gap(networks, held_out, rows=3, frames=6)
    assert np.isfinite(gap)
    deaf = build(dataclasses.replace(recipe, conditioning="keys"), held_out)
    tokenizer = deaf.tokenizer
    embeds = (tokenizer.condition_embed, tokenizer.flow_prior.condition_embed)
    for module in (deaf.generator.conditioning.control_embed, *embeds):
        module[0].weight.zero_()
    assert action_psnr_gap(deaf, held_out, rows=3, frames=6) == 0
