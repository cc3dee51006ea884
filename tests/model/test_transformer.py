"""The generator: cached equals uncached, no frame sees a later one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.tiny import random_like, stir
from worldsim.errors import ConfigError
from worldsim.model.cache import Cache
from worldsim.model.transformer import LatentPrediction, Transformer, TransformerConfig
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import FrameUnit

CONFIG = TransformerConfig(width=32, layers=4, heads=2, context=6)
BATCH, FRAMES, UNIT = 2, 6, FrameUnit(tokens=6, grid=(2, 3))
LATENT = LatentSpec(kind="continuous", tokens=6, channels=4, grid=(2, 3), bounded=True)
PRIOR, CONDITION = 3, 5
INPUTS = ("noisy", "t", "dt", "prior_tokens", "condition")


def make(config: TransformerConfig = CONFIG) -> Transformer:
    torch.manual_seed(0)
    generator = config.build(UNIT, LATENT, PRIOR, CONDITION).eval().requires_grad_(False)
    stir(generator)
    return generator


def clip(frames: int = FRAMES, batch: int = BATCH) -> dict[str, Tensor]:
    return {
        "noisy": random_like((batch, frames, UNIT.tokens, LATENT.channels), 0),
        "t": torch.ones(batch, frames),
        "dt": torch.ones(batch, frames),
        "prior_tokens": random_like((batch, frames, UNIT.tokens, PRIOR), 1),
        "condition": random_like((batch, frames, CONDITION), 2),
    }


def at(inputs: dict[str, Tensor], frames: list[int]) -> dict[str, Tensor]:
    return {name: value[:, frames] for name, value in inputs.items()}


def one_by_one(generator: Transformer, inputs: dict[str, Tensor], cache: Cache) -> LatentPrediction:
    """Frame after frame through the cache; the answers as of one pass."""
    answers = []
    for t in range(inputs["noisy"].shape[1]):
        answers.append(generator(**at(inputs, [t]), cache=cache))
        cache.write(answers[-1].keys[:, :, 0], answers[-1].values[:, :, 0])
    clean, agent = (torch.cat([getattr(a, name) for a in answers], 1) for name in ("clean", "agent"))
    keys, values = (torch.cat([getattr(a, name) for a in answers], 2) for name in ("keys", "values"))
    return LatentPrediction(clean, agent, keys, values)


def test_shapes() -> None:
    generator, inputs = make(), clip()
    out = generator(**inputs)
    tokens = UNIT.tokens + CONFIG.registers
    assert out.clean.shape == (BATCH, FRAMES, UNIT.tokens, LATENT.channels)
    assert out.agent.shape == (BATCH, FRAMES, CONFIG.width)
    assert out.keys.shape == out.values.shape == (2, BATCH, FRAMES, tokens, 2, 16)
    assert generator.temporal_layers == 2


def test_cached_equals_uncached() -> None:
    generator, inputs = make(), clip()
    whole = generator(**inputs)
    parts = one_by_one(generator, inputs, generator.initial_state(BATCH))
    for name in ("clean", "agent", "keys", "values"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_what_is_remembered_is_what_a_whole_pass_leaves(layers: int) -> None:
    generator, inputs = make(dataclasses.replace(CONFIG, layers=layers)), clip()
    cache = generator.initial_state(BATCH)
    one_by_one(generator, at(inputs, [0, 1]), cache)
    now = at(inputs, [2])
    modulation = generator.conditioning(now["condition"], now["t"], now["dt"])
    keys, values = generator.compute_kv(now["noisy"], generator.embed(now["prior_tokens"]), modulation, cache)
    whole = generator(**now, cache=cache)
    torch.testing.assert_close(keys, whole.keys)
    torch.testing.assert_close(values, whole.values)


def test_a_full_ring_sees_its_sink_and_the_newest_frames() -> None:
    """One temporal layer: keys depend on their own frame alone, so what was forgotten leaves no trace."""
    generator = make(dataclasses.replace(CONFIG, layers=2, context=4))
    inputs = clip(frames=9)
    parts = one_by_one(generator, inputs, generator.initial_state(BATCH))
    for t in range(4, 9):
        seen = generator(**at(inputs, [0, t - 3, t - 2, t - 1, t]))
        torch.testing.assert_close(parts.clean[:, t], seen.clean[:, -1], atol=1e-5, rtol=1e-5)


def test_a_pass_leaves_the_cache_alone() -> None:
    generator, inputs = make(), clip()
    cache = generator.initial_state(BATCH)
    one_by_one(generator, at(inputs, [0, 1]), cache)
    before = cache.pick(torch.arange(BATCH))
    first = generator(**at(inputs, [2]), cache=cache)
    again = generator(**at(inputs, [2]), cache=cache)
    torch.testing.assert_close(first.clean, again.clean, atol=0, rtol=0)
    for name in ("keys", "values", "written", "index"):
        torch.testing.assert_close(getattr(cache, name), getattr(before, name), atol=0, rtol=0)


@pytest.mark.parametrize("name", INPUTS)
def test_a_frame_does_not_see_later_ones_and_is_seen_by_them(name: str) -> None:
    generator, inputs = make(), clip()
    inputs["t"] = torch.full((BATCH, FRAMES), 0.5)
    before = generator(**inputs).clean
    changed = inputs[name].clone()
    changed[:, 3] *= 0.5
    after = generator(**{**inputs, name: changed}).clean
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=1e-6, rtol=1e-6)
    for t in range(3, FRAMES):
        assert (after[:, t] - before[:, t]).abs().max() > 1e-5


def test_worlds_of_a_batch_do_not_meet() -> None:
    generator, inputs = make(), clip()
    alone = generator(**{name: value[1:] for name, value in inputs.items()})
    torch.testing.assert_close(generator(**inputs).clean[1:], alone.clean, atol=1e-5, rtol=1e-5)


def test_a_withheld_control_is_not_read() -> None:
    generator, inputs = make(), clip()
    control_mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
    torch.testing.assert_close(
        generator(**inputs, control_mask=control_mask).clean, generator(**inputs).clean
    )
    control_mask[:, 2] = False
    before = generator(**inputs, control_mask=control_mask).clean
    inputs["condition"][:, 2] = 7.0
    torch.testing.assert_close(generator(**inputs, control_mask=control_mask).clean, before)


def test_the_spatial_positions_survive_a_cast() -> None:
    generator = make().to(torch.bfloat16)
    assert not generator.positions.is_floating_point()
    with torch.autocast("cpu", torch.bfloat16):
        assert generator(**clip()).clean.isfinite().all()


def test_a_new_generator_knows_nothing() -> None:
    assert not CONFIG.build(UNIT, LATENT, PRIOR, CONDITION)(**clip()).clean.any()


@pytest.mark.parametrize(
    "wrong", [{"width": 30}, {"width": 24}, {"sinks": 6}, {"registers": 0}, {"temporal_every": 5}]
)
def test_sizes_that_do_not_fit_are_errors(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(CONFIG, **wrong)


def test_a_velocity_leads_from_the_noise_to_the_clean_latent() -> None:
    velocity = make(dataclasses.replace(CONFIG, prediction="velocity"))
    inputs = clip()
    torch.testing.assert_close(velocity(**inputs).clean, inputs["noisy"], atol=0, rtol=0)  # at level 1
    inputs["t"] = torch.full((BATCH, FRAMES), 0.25)
    way = make()(**inputs).clean
    torch.testing.assert_close(velocity(**inputs).clean, inputs["noisy"] + 0.75 * way)
