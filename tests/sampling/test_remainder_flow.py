"""The loss of a remainder-flow sampler: noise and own samples in the past."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worldsim.model.recurrent import RecurrentConfig, RecurrentGenerator
from worldsim.sampling.protocol import LatentClip
from worldsim.sampling.remainder_flow import RemainderFlowConfig, RemainderFlowSampler
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import FrameUnit

BATCH, LENGTH = 4, 6


@pytest.fixture
def generator() -> RecurrentGenerator:
    torch.manual_seed(0)
    config = RecurrentConfig(width=16, layers=1, head_width=16, head_blocks=1, agent=8, embedding=8)
    latent = LatentSpec(kind="continuous", tokens=1, channels=5, grid=(1, 1), bounded=False)
    return config.build(FrameUnit(tokens=1), latent, 0, 3).train()


@pytest.fixture
def sampler(generator: RecurrentGenerator) -> RemainderFlowSampler:
    latent = LatentSpec(kind="continuous", tokens=1, channels=5, grid=(1, 1), bounded=False)
    return RemainderFlowConfig().build(latent, generator)


def make_clip(**others: Any) -> LatentClip:
    torch.manual_seed(1)
    latents, condition = torch.randn(BATCH, LENGTH, 1, 5), torch.randn(BATCH, LENGTH, 3)
    return LatentClip(latents=latents, prior_tokens=latents[..., :0], condition=condition, **others)


def test_own_samples_replace_frames_after_the_first(
    generator: RecurrentGenerator, sampler: RemainderFlowSampler
) -> None:
    clip = make_clip()
    past, condition = clip.latents[:, :-1], clip.condition[:, 1:]
    torch.manual_seed(2)
    own = sampler._with_own(generator, past, condition, 1.0, 2)
    changed = (own != past).flatten(2).any(-1)
    assert not changed[:, 0].any()
    assert changed.any()
    assert not changed.all(), "a part of the frames stays"
    assert not own.requires_grad


def test_a_share_of_zero_leaves_the_past_as_it_is(
    generator: RecurrentGenerator, sampler: RemainderFlowSampler
) -> None:
    clip = make_clip()
    past = clip.latents[:, :-1]
    assert torch.equal(sampler._with_own(generator, past, clip.condition[:, 1:], 0.0, 1), past)


@pytest.mark.parametrize("own_past", [0.0, 1.0])
def test_the_loss_is_the_same_for_the_same_seed(
    generator: RecurrentGenerator, sampler: RemainderFlowSampler, own_past: float
) -> None:
    clip = make_clip(own_past=own_past)
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    losses = []
    for _ in range(2):
        generator.load_state_dict(state)
        losses.append(sampler.loss(generator, clip, np.random.default_rng(3)).loss.item())
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0])


def test_a_clean_past_is_not_disturbed(generator: RecurrentGenerator, sampler: RemainderFlowSampler) -> None:
    generator.eval()
    agents = [
        sampler.loss(
            generator, make_clip(is_past_clean=True, own_past=1.0), np.random.default_rng(seed)
        ).agent
        for seed in (4, 5)
    ]
    assert torch.equal(*agents)
