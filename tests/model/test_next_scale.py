"""The next-scale generator: scale by scale equals whole clips, and nothing sees what it must predict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import random_like, stir
from worldsim.errors import ConfigError
from worldsim.model.next_scale import NextScaleConfig, NextScaleGenerator
from worldsim.model.scale_maps import ScaleMaps
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.tokenizer.pyramid import BitPyramid
from worldsim.units import FrameUnit, NextScaleUnit

SCALES, BITS, CONDITION, BATCH, FRAMES = ((1, 1), (2, 2), (2, 4)), 3, 5, 2, 7
TOKENS = 13
CONFIG = NextScaleConfig(width=16, layers=2, heads=2, context=3, embedding=8, agent=8)
LATENT = LatentSpec(kind="bits", tokens=TOKENS, channels=BITS, grid=(2, 4), bounded=True, scales=SCALES)


@pytest.fixture
def generator() -> NextScaleGenerator:
    torch.manual_seed(0)
    made = CONFIG.build(NextScaleUnit(scales=SCALES), LATENT, 1, CONDITION)
    stir(made)
    return made.requires_grad_(False)


def bits(seed: int) -> Tensor:
    return torch.where(random_like((BATCH, FRAMES, TOKENS, BITS), seed) > 0, 1.0, -1.0)


PRIOR = random_like((BATCH, FRAMES, TOKENS, 1), 8)
CONDITIONS = random_like((BATCH, FRAMES, CONDITION), 9)


def logits_of(generator: NextScaleGenerator, given: Tensor, conditions: Tensor = CONDITIONS) -> Tensor:
    """Logits of every frame but the first."""
    features = generator.clip(given, conditions, PRIOR)
    return generator.logits(features.hidden[:, 1:], given[:, :-1]).given(given[:, 1:])


@pytest.mark.parametrize("alone", [False, True])
def test_scale_by_scale_equals_the_clip(generator: NextScaleGenerator, alone: bool) -> None:
    given, state = bits(0), generator.initial_state(BATCH)
    wanted = logits_of(generator, given)
    agent = generator.agent(generator.clip(given, CONDITIONS, PRIOR))
    if alone:
        generator.prepare_inference(torch.float32)
    for t in range(FRAMES):
        prepared = generator.prepare(state, PRIOR[:, t], CONDITIONS[:, t], 3)
        if t:
            parts = []
            for index in range(len(SCALES)):
                rows = generator.maps.rows(index)
                logits = generator.scale_logits(prepared, given[:, t], index)
                parts.append(logits.given(given[:, t, rows]))
            torch.testing.assert_close(torch.cat(parts, 1), wanted[:, t - 1], atol=1e-4, rtol=1e-4)
        told = generator.commit(state, prepared, given[:, t], True)
        torch.testing.assert_close(told, agent[:, t], atol=1e-4, rtol=1e-4)
    assert state.units.tolist() == [FRAMES] * BATCH


def test_scales_that_were_not_run_are_run_together(generator: NextScaleGenerator) -> None:
    given, states = bits(0), [generator.initial_state(BATCH) for _ in range(3)]
    for t in range(3):
        for passes, state in enumerate(states):
            prepared = generator.prepare(state, PRIOR[:, t], CONDITIONS[:, t], 0)
            for index in range(passes):
                generator.scale_logits(prepared, given[:, t], index)
            generator.commit(state, prepared, given[:, t], True)
    for name, tensor in states[0].tensors().items():
        for other in states[1:]:
            torch.testing.assert_close(other.tensors()[name], tensor, atol=1e-4, rtol=1e-4)


def test_a_scale_sees_no_finer_one_and_a_bit_none_after_it(generator: NextScaleGenerator) -> None:
    given, changed = bits(0), bits(0)
    changed[:, 4, 5:] *= -1
    before, after = logits_of(generator, given), logits_of(generator, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    torch.testing.assert_close(before[:, 3, :5], after[:, 3, :5])
    assert not torch.allclose(before[:, 3, 5:], after[:, 3, 5:])
    assert not torch.allclose(before[:, 4], after[:, 4])
    torch.testing.assert_close(before[:, 3, 5:, 0], after[:, 3, 5:, 0])


def test_the_agent_hangs_on_the_past_and_the_condition_alone(generator: NextScaleGenerator) -> None:
    given, changed = bits(0), bits(0)
    changed[:, 4] *= -1
    agents = [generator.agent(generator.clip(part, CONDITIONS, PRIOR)) for part in (given, changed)]
    torch.testing.assert_close(agents[0][:, :5], agents[1][:, :5])
    assert not torch.allclose(agents[0][:, 5], agents[1][:, 5])
    other = CONDITIONS.clone()
    other[:, 4] += 1
    moved = generator.agent(generator.clip(given, other, PRIOR))
    assert not torch.allclose(agents[0][:, 4], moved[:, 4])


def test_hidden_frames_and_withheld_controls_are_not_seen(generator: NextScaleGenerator) -> None:
    given, other = bits(0), CONDITIONS.clone()
    other[:, 3] += 1
    mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
    mask[:, 3] = False
    one, two = (generator.clip(given, part, PRIOR, mask).hidden for part in (CONDITIONS, other))
    torch.testing.assert_close(one, two)
    shown = torch.zeros(BATCH, FRAMES, 2, dtype=torch.bool)
    changed = bits(0)
    changed[:, 0] *= -1
    hidden = [generator.clip(part, CONDITIONS, PRIOR, None, shown).hidden for part in (given, changed)]
    torch.testing.assert_close(hidden[0][:, 3:], hidden[1][:, 3:])


def test_without_the_condition_the_past_is_the_same(generator: NextScaleGenerator) -> None:
    given, state = bits(0), generator.initial_state(BATCH)
    generator.commit(state, generator.prepare(state, PRIOR[:, 0], CONDITIONS[:, 0], 0), given[:, 0], True)
    free = []
    for conditions in (CONDITIONS[:, 1], CONDITIONS[:, 2]):
        prepared = generator.unconditioned(generator.prepare(state, PRIOR[:, 1], conditions, 3))
        free.append(generator.scale_logits(prepared, given[:, 1], 0).base)
    assert torch.equal(*free)


def test_other_latents_and_units_are_refused() -> None:
    continuous = LatentSpec(kind="continuous", tokens=8, channels=BITS, grid=(2, 4), bounded=True)
    with pytest.raises(ConfigError, match="tokenizer of bits"):
        CONFIG.build(FrameUnit(tokens=8, grid=(2, 4)), continuous, 1, CONDITION)
    with pytest.raises(ConfigError, match="one pass per scale"):
        CONFIG.build(FrameUnit(tokens=TOKENS), LATENT, 1, CONDITION)
    with pytest.raises(ConfigError, match="multiple of 8"):
        NextScaleConfig(width=20, heads=2)
    with pytest.raises(ConfigError, match="context of two"):
        NextScaleConfig(context=1)


def test_maps_do_what_the_pyramid_does() -> None:
    maps, pyramid = ScaleMaps(SCALES), BitPyramid(SCALES, BITS)
    with torch.no_grad():
        pyramid.gain.fill_(1.0)
    given = bits(1)[:, 0]
    whole = pyramid.features(given).detach().flatten(2).transpose(1, 2)
    torch.testing.assert_close(maps.whole(given), whole)
    coarse = given.clone()
    coarse[:, 5:] = 0
    pooled = pyramid.features(coarse).detach().flatten(2).transpose(1, 2)
    torch.testing.assert_close(maps.coarser(given)[:, 5:], pooled)
    torch.testing.assert_close(maps.coarser_of(given[:, :5], 2), pooled)
    assert not maps.coarser(given)[:, :1].any()
    torch.testing.assert_close(maps.first(whole)[:, 0], whole.mean(1))
