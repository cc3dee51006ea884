"""Sampling of scales: chance, guidance, errors in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny import random_like, stir
from worldsim.errors import ConfigError
from worldsim.model.next_scale import NextScaleConfig, NextScaleGenerator
from worldsim.model.scale_features import PreparedScales, ScaleLogits
from worldsim.sampling.flow import FlowSampler
from worldsim.sampling.next_scale import NextScaleSampler, NextScaleSamplerConfig, _drawn_by, bits_of
from worldsim.sampling.protocol import LatentClip, whole_steps_near
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.tokenizer.pyramid import BitPyramid
from worldsim.units import NextScaleUnit

SCALES, BITS, CONDITION, BATCH, FRAMES, TOKENS = ((1, 1), (2, 2), (2, 4)), 3, 5, 4, 6, 13
LATENT = LatentSpec(kind="bits", tokens=TOKENS, channels=BITS, grid=(2, 4), bounded=True, scales=SCALES)


def generator() -> NextScaleGenerator:
    torch.manual_seed(0)
    config = NextScaleConfig(width=16, layers=1, heads=2, context=3, embedding=8, agent=8)
    made = config.build(NextScaleUnit(scales=SCALES), LATENT, 1, CONDITION)
    stir(made, scale=0.3)
    return made


def sampler(**fields: object) -> NextScaleSampler:
    return NextScaleSamplerConfig(**fields).build(LATENT, generator())  # type: ignore[arg-type]


def drawn(one: NextScaleSampler, noise: Tensor, passes: int = 3, condition: float = 1.0) -> Tensor:
    with torch.no_grad():
        made = generator()
        state, prior = made.initial_state(BATCH), torch.zeros(BATCH, TOKENS, 1)
        first = made.prepare(state, prior, torch.zeros(BATCH, CONDITION), 0)
        made.commit(state, first, torch.ones(BATCH, TOKENS, BITS), True)
        prepared = made.prepare(state, prior, torch.full((BATCH, CONDITION), condition), passes)
        return one.draw(made, prepared, noise, passes)


NOISE = random_like((BATCH, TOKENS, BITS), 3)
GIVEN_BITS = torch.where(random_like((BATCH, TOKENS, BITS), 4) > 0, 1.0, -1.0)


def clip(requantise: bool) -> LatentClip:
    planes = random_like((BATCH * FRAMES, BITS, 2, 4), 5)
    pyramid = BitPyramid(SCALES, BITS).requires_grad_(False)

    def answer(flips: Tensor) -> tuple[Tensor, Tensor]:
        again = pyramid(planes, flips.flatten(0, 1))
        return again.seen.unflatten(0, (BATCH, FRAMES)), again.bits.unflatten(0, (BATCH, FRAMES))

    return LatentClip(
        latents=pyramid(planes).bits.unflatten(0, (BATCH, FRAMES)),
        prior_tokens=torch.zeros(BATCH, FRAMES, TOKENS, 1),
        condition=random_like((BATCH, FRAMES, CONDITION), 6),
        requantise=answer if requantise else None,
    )


def test_bits_are_drawn_one_after_the_other_by_their_chances() -> None:
    base, coupling = torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 1, 2, 2)
    coupling[..., 1, 0] = 3.0
    logits = ScaleLogits(base.expand(4, -1, -1), coupling.expand(4, -1, -1, -1))
    uniform = torch.tensor([[0.4, 0.97], [0.6, 0.2], [0.4, 0.99], [0.6, 0.1]])[:, None]
    assert bits_of(logits, _drawn_by(uniform))[0][:, 0].tolist() == [[1, 1], [-1, -1], [1, -1], [-1, 1]]
    bits = torch.tensor([[[1.0, -1.0]]])
    torch.testing.assert_close(ScaleLogits(base, coupling).given(bits), torch.tensor([[[0.0, 4.0]]]))


def test_noise_alone_decides_and_without_it_the_likelier_bit_comes() -> None:
    one = sampler()
    assert one.allowed_steps == (1, 2, 3)
    assert one.default_steps == 3
    assert one.whole_steps == (3,)
    first, again = drawn(one, NOISE), drawn(one, NOISE)
    assert torch.equal(first, again)
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(first, drawn(one, NOISE.roll(1, 0)))
    sure = drawn(one, 0 * NOISE)
    assert torch.equal(sure[0], sure[1])


def test_with_fewer_passes_finer_scales_stay_as_they_were() -> None:
    one = sampler()
    coarse, whole = drawn(one, NOISE, 2), drawn(one, NOISE)
    assert torch.equal(coarse[:, :5], whole[:, :5])
    assert (coarse[:, 5:] == 1).all()


def test_each_scale_has_its_temperature() -> None:
    cold = sampler(temperatures=(0.0, 0.0, 0.0))
    assert torch.equal(drawn(cold, NOISE), drawn(sampler(), 0 * NOISE))
    with pytest.raises(ConfigError, match="3 scales"):
        sampler(temperatures=(1.0, 1.0))


def test_guidance_moves_bits_away_from_the_unconditioned_ones() -> None:
    plain, guided = drawn(sampler(), NOISE), drawn(sampler(guidance=(6.0, 6.0)), NOISE)
    assert not torch.equal(plain, guided)
    free = sampler(guidance=(0.0, 0.0))
    assert torch.equal(drawn(free, NOISE), drawn(free, NOISE, condition=-4.0))
    fresh = sampler(guidance=(6.0, 6.0), guidance_frames=10**6)
    assert torch.equal(drawn(fresh, NOISE), plain)


def test_flips_ramp_over_time_and_are_inherited() -> None:
    torch.manual_seed(0)
    one = sampler(flips=0.2, flip_ramp=0.02, flipped_clips=1.0)
    shares = one._flip_shares(64, 9, torch.device("cpu"))
    assert shares.shape == (64, 9, 3)
    assert (shares <= 0.2 + 0.02 * torch.arange(9)[:, None] + 1e-6).all()
    assert (shares[:, 1:, 0] >= shares[:, :-1, -1] - 1e-6).all()
    assert shares[:, -1].mean() > shares[:, 0].mean()
    assert not sampler(flipped_clips=0.0)._flip_shares(8, 3, torch.device("cpu")).any()


@pytest.mark.slow
@pytest.mark.parametrize(("requantise", "own_past"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_the_loss_teaches(requantise: bool, own_past: float) -> None:
    one, made, given = sampler(), generator(), replace(clip(requantise), own_past=own_past)
    optimizer, losses = torch.optim.Adam(made.parameters(), 1e-2), []
    for step in range(40):
        result = one.loss(made, given, np.random.default_rng(step % 2))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert result.agent.shape == (BATCH, FRAMES, 8)
    assert float(result.logs["bits_per_frame"]) < TOKENS * BITS
    same = [one.loss(made, given, np.random.default_rng(3)).loss.item() for _ in range(2)]
    assert same[0] == same[1]


def test_rates_out_of_range_are_refused() -> None:
    for fields in ({"flips": 1.5}, {"flip_ramp": -0.1}, {"guidance": (-1.0, 1.0)}):
        with pytest.raises(ConfigError):
            NextScaleSamplerConfig(**fields)  # type: ignore[arg-type]


def test_few_passes_are_taken_only_where_they_draw_whole_frames() -> None:
    assert whole_steps_near(sampler(), 1) == 3
    assert whole_steps_near(sampler(), 3) == 3
    assert whole_steps_near(FlowSampler(), 1) == 1
    assert whole_steps_near(FlowSampler(), 3) == 2  # not taken at all: the default


def prepared_scales(rows: slice, passes: int) -> tuple[NextScaleGenerator, PreparedScales]:
    """A generator, and some worlds one frame after their first."""
    made = generator()
    made.prepare_inference(torch.float32)
    state = made.initial_state(BATCH).pick(rows)
    prior = torch.zeros(BATCH, TOKENS, 1)[rows]
    first = made.prepare(state, prior, torch.zeros(BATCH, CONDITION)[rows], 0)
    made.commit(state, first, GIVEN_BITS[rows], True)
    return made, made.prepare(state, prior, torch.ones(BATCH, CONDITION)[rows], passes)


@pytest.mark.parametrize("passes", [1, 3])
def test_chances_of_a_row_do_not_hang_on_its_batch(passes: int) -> None:
    one = sampler()
    with torch.no_grad():
        made, prepared = prepared_scales(slice(None), passes)
        bits = one.draw(made, prepared, NOISE, passes)
        together, rows = one.chances(made, prepared, bits), []
        for row in (slice(i, i + 1) for i in range(BATCH)):
            drawn = [by[row].clone() for by in prepared.drawn]
            alone = replace(prepared, drawn=drawn, units=prepared.units[row])
            rows.append(one.chances(made, alone, bits[row].clone()))
    assert torch.equal(together.surprise, torch.cat([row.surprise for row in rows]))
    assert torch.equal(together.doubt, torch.cat([row.doubt for row in rows]))
    assert ((together.doubt > 0) & (together.doubt < 1)).all()


def test_drawn_and_given_bits_have_the_same_surprise() -> None:
    one = sampler()
    with torch.no_grad():
        made, prepared = prepared_scales(slice(None), 3)
        bits = one.draw(made, prepared, NOISE, 3)
        _, again = prepared_scales(slice(None), 0)
        drawn, given = one.chances(made, prepared, bits), one.chances(made, again, bits)
        logits = made.logits(torch.cat(again.hidden, 1), again.previous).given(bits)
    wanted = F.binary_cross_entropy_with_logits(logits, (bits > 0).float(), reduction="none").sum((1, 2))
    torch.testing.assert_close(drawn.surprise, given.surprise)
    torch.testing.assert_close(given.surprise, wanted / np.log(2))


def test_a_first_frame_is_an_even_chance() -> None:
    one, made = sampler(), generator()
    with torch.no_grad():
        prior, condition = torch.zeros(BATCH, TOKENS, 1), torch.zeros(BATCH, CONDITION)
        prepared = made.prepare(made.initial_state(BATCH), prior, condition, 0)
        chances = one.chances(made, prepared, GIVEN_BITS)
    assert chances.surprise.tolist() == [TOKENS * BITS] * BATCH
    assert chances.doubt.tolist() == [1.0] * BATCH


def test_giving_the_chances_of_a_frame_does_not_change_its_commit() -> None:
    states = []
    with torch.no_grad():
        for asks in (True, False):
            made = generator()
            state = made.initial_state(BATCH)
            prepared = made.prepare(state, torch.zeros(BATCH, TOKENS, 1), torch.zeros(BATCH, CONDITION), 0)
            if asks:
                sampler().chances(made, prepared, GIVEN_BITS)
            made.commit(state, prepared, GIVEN_BITS, True)
            states.append(state.tensors())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
