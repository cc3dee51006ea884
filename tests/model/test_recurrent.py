"""The recurrent generator: the form for clips against the form for one frame, memory, and what it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import random_like, stir
from worldsim.errors import ConfigError
from worldsim.model.recurrent import RecurrentConfig, RecurrentGenerator
from worldsim.model.state import TensorState
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import FrameUnit

BATCH, TIME, CHANNELS, CONDITION = 2, 7, 6, 5


def generator(memory: str, tokens: int, context: int = 4, agent_memory: bool = False) -> RecurrentGenerator:
    torch.manual_seed(0)
    config = RecurrentConfig(
        width=16,
        layers=2,
        memory=memory,  # type: ignore[arg-type]
        context=context,
        heads=2,
        head_width=8,
        agent=8,
        agent_memory=agent_memory,
    )
    spec = LatentSpec(kind="continuous", tokens=tokens, channels=CHANNELS, grid=(1, tokens), bounded=False)
    made = config.build(FrameUnit(tokens=tokens), spec, 1, CONDITION)
    stir(made, scale=0.2)
    return made.eval()


def walk(made: RecurrentGenerator, latents: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor, TensorState]:
    """Features before each frame but the first, one frame after another; the agent's; and the last state."""
    state, features, agents = made.initial_state(len(latents)), [], []
    for t in range(latents.shape[1]):
        prepared = made.prepare(state, latents.new_zeros(len(latents), made.tokens, 1), conditions[:, t], 0)
        features.append(prepared.features)
        agents.append(made.commit(state, prepared, latents[:, t], True))
    return torch.stack(features[1:], 1), torch.stack(agents[1:], 1), state


@pytest.mark.parametrize("agent_memory", [True, False])
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("memory", ["lstm", "attention"])
def test_clips_and_single_frames_agree(memory: str, tokens: int, agent_memory: bool) -> None:
    made = generator(memory, tokens, agent_memory=agent_memory)
    latents = random_like((BATCH, TIME, tokens, CHANNELS), 1)
    conditions = random_like((BATCH, TIME, CONDITION), 2)
    with torch.no_grad():
        at_once, _ = made.clip(latents[:, :-1], conditions[:, 1:])
        agents_at_once = made.agent_clip(at_once)
        one_by_one, agents, _ = walk(made, latents, conditions)
    torch.testing.assert_close(one_by_one, at_once, atol=2e-5, rtol=2e-4)
    torch.testing.assert_close(agents, agents_at_once, atol=2e-5, rtol=2e-4)


def test_an_agents_memory_keeps_what_features_do_not() -> None:
    """Two clips that differ in their first features alone have other agent features to the end."""
    made = generator("lstm", 1, agent_memory=True)
    features = random_like((1, TIME, 1, 16), 1)
    other = features.clone()
    other[:, 0] += 1
    with torch.no_grad():
        one, two = made.agent_clip(features), made.agent_clip(other)
        plain, same = made.agent_inputs(features), made.agent_inputs(other)
    assert torch.equal(plain[:, 1:], same[:, 1:])
    assert (one[:, -1] != two[:, -1]).any()


def test_an_attention_memory_forgets_what_lies_beyond_its_context() -> None:
    made = generator("attention", 1, context=3)
    latents, conditions = random_like((1, TIME, 1, CHANNELS), 1), random_like((1, TIME, CONDITION), 2)
    other = latents.clone()
    other[:, 0] += 1
    with torch.no_grad():
        _, _, state = walk(made, latents, conditions)
        _, _, changed = walk(made, other, conditions)
    for name, value in state.tensors().items():
        # two layers of three frames each reach back five frames; the newest keys are beyond that
        newest = value[:, -1] if name.endswith(("keys", "values")) else value
        assert torch.equal(newest, changed[name][:, -1] if newest is not value else changed[name]), name


def test_the_mean_and_the_remainder_make_the_latent() -> None:
    made = generator("lstm", 1)
    state, condition = made.initial_state(BATCH), random_like((BATCH, CONDITION), 3)
    prepared = made.prepare(state, torch.zeros(BATCH, 1, 1), condition, 2)
    noise = random_like((BATCH, 1, CHANNELS), 4)
    clean = made.denoise(prepared, noise, 0)
    assert clean.shape == noise.shape
    made.remainder_std.fill_(0.5)
    torch.testing.assert_close(made.finish(prepared, clean), prepared.base + 0.5 * clean)


@pytest.mark.slow
def test_the_flow_head_learns_a_joint_distribution() -> None:
    """Two equal and opposite values: number by number they would mix, jointly they do not."""
    made = generator("lstm", 1).train()
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    features, weight = torch.zeros(256, 1, 16), torch.ones(256)
    for _ in range(250):
        sign = torch.randint(0, 2, (256, 1, 1)).float() * 2 - 1
        loss, _ = made.loss(features, sign.expand(256, 1, CHANNELS).clone(), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.eval()
    with torch.no_grad():
        condition, x = made.flow.condition(features), torch.randn(256, 1, CHANNELS)
        for index in range(4):
            t, size = torch.full((1,), index / 4), torch.full((1,), 0.25)
            x = torch.lerp(x, made.flow(condition, x, t, size), 1 / (4 - index))
        drawn = (x * made.remainder_std)[:, 0]
    sides = drawn.mean(-1)
    assert (sides.abs() > 0.5).float().mean() > 0.8
    assert 0.25 < (sides > 0).float().mean() < 0.75
    assert drawn.std(-1).mean() < 0.5


def test_frames_without_weight_teach_nothing() -> None:
    made = generator("lstm", 1).train()
    features, change = random_like((8, 1, 16), 1), random_like((8, 1, CHANNELS), 2)
    loss, _ = made.loss(features, change, torch.zeros(8))
    assert loss.item() == 0


def test_bits_and_units_of_several_frames_are_refused() -> None:
    spec = LatentSpec(kind="bits", tokens=1, channels=4, grid=(1, 1), bounded=True)
    with pytest.raises(ConfigError, match="continuous latents"):
        RecurrentConfig().build(FrameUnit(tokens=1), spec, 1, CONDITION)
    with pytest.raises(ConfigError, match="heads"):
        RecurrentConfig(memory="attention", width=20, heads=3)
