"""Dreams of recorded clips, and whether they obey."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tests.tiny import stir
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.training.dreams import GIVEN, dream, obedience_gap
from worldsim.training.recipes import Recipe, plan_networks


def build(recipe: Recipe, clips: ClipStore) -> Networks:
    torch.manual_seed(0)
    networks = Networks(plan_networks(recipe, clips.spec, clips.poses), clips.spec)
    networks.eval().requires_grad_(False)
    stir(networks)
    return networks


def test_a_dream_starts_with_the_true_frames(recipe: Recipe, held_out: ClipStore) -> None:
    clip = held_out.sample(2, 8, np.random.default_rng(0))
    shown = torch.stack([*dream(build(recipe, held_out), clip, given_poses=True)], 1)
    assert shown.shape == (2, 7, 3, 60, 80)
    true = torch.from_numpy(clip.frames).permute(0, 1, 4, 2, 3) / 127.5 - 1
    torch.testing.assert_close(shown[:, : GIVEN - 1].float(), true[:, 1:GIVEN], atol=0.01, rtol=0)
    assert (shown[:, GIVEN - 1] - true[:, GIVEN]).abs().mean() > 0.01


def test_cameras_go_where_they_are_told_or_where_keys_lead(recipe: Recipe, held_out: ClipStore) -> None:
    networks, clip = build(recipe, held_out), held_out.sample(2, 8, np.random.default_rng(0))
    told = [*dream(networks, clip, given_poses=True)]
    led = [*dream(networks, clip, given_poses=False)]
    assert torch.equal(told[GIVEN - 2], led[GIVEN - 2])
    assert not torch.equal(told[-1], led[-1])


def test_the_gap_is_the_same_every_time_and_zero_where_keys_do_nothing(
    recipe: Recipe, held_out: ClipStore
) -> None:
    networks = build(recipe, held_out)
    gap = obedience_gap(networks, held_out, rows=3, frames=6)
    assert gap == obedience_gap(networks, held_out, rows=3, frames=6)
    assert np.isfinite(gap)
    deaf = build(dataclasses.replace(recipe, conditioning="keys"), held_out)
    for module in (deaf.generator.condition.control, deaf.tokenizer.embed):
        module[0].weight.zero_()
    assert obedience_gap(deaf, held_out, rows=3, frames=6) == 0
