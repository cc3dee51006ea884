"""Units of several parts: what a pass sees, cached equals uncached, weights that serve several units."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.tiny import random_like, stir
from worldsim.errors import ConfigError
from worldsim.model.transformer import Transformer, TransformerConfig
from worldsim.sampling.flow import FlowSampler
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import CubeUnit, FrameUnit, KeyDetailUnit, ScalesUnit, Unit

CONFIG = TransformerConfig(width=32, layers=4, heads=2, context=6, time_axis=True)
GRID, BATCH, CHANNELS, PRIOR, CONDITION = (2, 4), 2, 3, 2, 5
LATENT = LatentSpec(kind="continuous", tokens=8, channels=CHANNELS, grid=GRID, bounded=False)
UNITS: dict[str, Unit] = {
    "frame": FrameUnit(tokens=8, grid=GRID),
    "key-detail": KeyDetailUnit(frames=2, groups=2, grid=GRID),
    "cube": CubeUnit(frames=2, grid=GRID, splits=(2, 1, 2)),
    "chunk": CubeUnit(frames=2, grid=GRID),
    "one-frame-cube": CubeUnit(frames=1, grid=GRID, splits=(1, 2, 2)),
    "scales": ScalesUnit(grid=GRID, levels=3),
}
PARTS = {name: unit for name, unit in UNITS.items() if len(unit.order()) > 1}


def make(unit: Unit, config: TransformerConfig = CONFIG) -> Transformer:
    torch.manual_seed(0)
    made = config.build(unit, LATENT, PRIOR, unit.frames * CONDITION).eval().requires_grad_(False)
    stir(made)
    return made


def clip(unit: Unit, units: int) -> dict[str, Tensor]:
    return {
        "noisy": random_like((BATCH, units, unit.tokens, CHANNELS), 0),
        "t": torch.ones(BATCH, units),
        "dt": torch.ones(BATCH, units),
        "prior_tokens": random_like((BATCH, units, unit.tokens, PRIOR), 1),
        "condition": random_like((BATCH, units, unit.frames * CONDITION), 2),
    }


def committed(generator: Transformer, inputs: dict[str, Tensor], units: int) -> tuple[object, list[Tensor]]:
    """A cache that holds the first ``units`` of a clip, and the agents of their commits."""
    cache, agents = generator.initial_state(BATCH), []
    for t in range(units):
        prepared = generator.prepare(cache, inputs["prior_tokens"][:, t], inputs["condition"][:, t], 0)
        agent = generator.commit(cache, prepared, inputs["noisy"][:, t], True)
        assert agent is not None
        agents.append(agent)
    return cache, agents


@pytest.mark.parametrize("name", UNITS)
def test_cached_equals_uncached(name: str) -> None:
    unit = UNITS[name]
    generator, inputs = make(unit), clip(unit, 4)
    _, agents = committed(generator, inputs, 4)
    whole = generator(**inputs).agent
    for t, agent in enumerate(agents):
        torch.testing.assert_close(agent, whole[:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["clean", "velocity"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_predicted_as_a_whole_pass_predicts_it(name: str, prediction: str) -> None:
    """Part after part with held keys equals one pass over the unit, clean before the part and noisy in it."""
    unit = PARTS[name]
    generator = make(unit, dataclasses.replace(CONFIG, prediction=prediction))  # type: ignore[arg-type]
    inputs, steps = clip(unit, 3), 2
    cache, _ = committed(generator, inputs, 2)
    last = {key: value[:, 2] for key, value in inputs.items()}
    given = last["prior_tokens"], last["condition"]
    prepared = generator.prepare(cache, *given, steps)  # type: ignore[arg-type]
    noisy = random_like((BATCH, unit.tokens, CHANNELS), 7)
    for number, part in enumerate(unit.order()):
        tokens = list(part)
        made = generator.denoise_part(prepared, noisy[:, tokens], 1, number)
        is_now = torch.tensor([token in part for token in range(unit.tokens)])[None, :, None]
        mixed = torch.where(is_now, noisy, last["noisy"])
        t = torch.ones(BATCH, 3, len(unit.order()))
        dt = torch.ones_like(t)
        t[:, 2, number], dt[:, 2, number] = 0.5, 0.5
        seen = torch.cat([inputs["noisy"][:, :2], mixed[:, None]], 1)
        whole = generator(**(inputs | {"noisy": seen, "t": t, "dt": dt})).clean[:, 2]
        torch.testing.assert_close(made, whole[:, tokens], atol=1e-5, rtol=1e-5)
        generator.settle(prepared, last["noisy"][:, tokens], number)


@pytest.mark.parametrize("name", PARTS)
def test_later_parts_and_units_are_not_seen(name: str) -> None:
    unit = PARTS[name]
    generator, inputs = make(unit), clip(unit, 3)
    inputs["t"] = torch.full((BATCH, 3, len(unit.order())), 0.5)
    inputs["dt"] = torch.full_like(inputs["t"], 0.5)
    before = generator(**inputs).clean
    last = list(unit.order()[-1])
    changed = inputs["noisy"].clone()
    changed[:, 1, last] += 1
    after = generator(**(inputs | {"noisy": changed})).clean
    earlier = [token for token in range(unit.tokens) if token not in last]
    torch.testing.assert_close(after[:, 1, earlier], before[:, 1, earlier], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(after[:, 0], before[:, 0], atol=1e-6, rtol=1e-6)
    assert (after[:, 1, last] - before[:, 1, last]).abs().max() > 1e-4
    assert (after[:, 2] - before[:, 2]).abs().max() > 1e-5


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("direction", ["forward", "backward", "full"])
def test_directions(name: str, direction: str) -> None:
    unit = UNITS[name]
    generator, inputs = make(unit).look(direction), clip(unit, 3)  # type: ignore[arg-type]
    before = generator(**inputs).clean
    changed = inputs["noisy"].clone()
    changed[:, 1] += 1
    moved = (generator(**(inputs | {"noisy": changed})).clean - before).abs().amax((0, 2, 3))
    sees = {"forward": [False, True, True], "backward": [True, True, False], "full": [True, True, True]}
    assert (moved > 1e-6).tolist() == sees[direction]


def test_a_backward_unit_mirrors_its_mask() -> None:
    unit = PARTS["cube"]
    generator, inputs = make(unit).look("backward"), clip(unit, 1)
    before = generator(**inputs).clean
    changed = inputs["noisy"].clone()
    changed[:, 0, list(unit.order()[0])] += 1
    moved = (generator(**(inputs | {"noisy": changed})).clean - before).abs().amax((0, 1, 3))
    assert [token for token in range(unit.tokens) if moved[token] > 1e-6] == list(unit.order()[0])


@pytest.mark.parametrize("name", UNITS)
def test_a_draw_is_of_all_tokens_and_depends_on_the_past(name: str) -> None:
    unit = UNITS[name]
    generator, inputs, sampler = make(unit), clip(unit, 3), FlowSampler()
    noise = random_like((BATCH, unit.tokens, CHANNELS), 3)
    drawn = []
    for past in (2, 1):
        cache, _ = committed(generator, inputs, past)
        args = inputs["prior_tokens"][:, 2], inputs["condition"][:, 2]
        prepared = generator.prepare(cache, *args, 2)  # type: ignore[arg-type]
        drawn.append(sampler.draw(generator, prepared, noise, 2))
        again = sampler.draw(generator, prepared, noise, 2)
        torch.testing.assert_close(again, drawn[-1], atol=0, rtol=0)
    assert drawn[0].shape == noise.shape
    assert (drawn[0] - drawn[1]).abs().max() > 1e-5


def test_units_of_one_form_share_weights() -> None:
    generator = make(UNITS["cube"])
    other = generator.for_unit(UNITS["key-detail"])
    assert other.position is generator.position
    assert (len(other.order), len(generator.order)) == (2, 4)
    inputs = clip(UNITS["cube"], 2)
    assert not torch.equal(other(**inputs).clean, generator(**inputs).clean)
    alone = make(UNITS["key-detail"])
    alone.load_state_dict(generator.state_dict())
    torch.testing.assert_close(other(**inputs).clean, alone(**inputs).clean)
    with pytest.raises(ConfigError, match="2 frames and 16 tokens"):
        generator.for_unit(UNITS["frame"])
