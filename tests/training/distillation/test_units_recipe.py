"""The recipe of units, from a dataset to worlds that play."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import stir
from tests.training.rooms import write_walks
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.controls import Control
from worldsim.data.clips import ClipStore
from worldsim.engine.world import load
from worldsim.errors import ConfigError, EngineError
from worldsim.networks import Networks
from worldsim.training.distillation.recipe import Companions, UnitsRecipe
from worldsim.training.starts import choose_starts
from worldsim.training.trainer import Trainer

TINY = UnitsRecipe(
    patch=10,
    pool=2,
    channels=3,
    vae_width=8,
    vae_depth=1,
    width=16,
    layers=2,
    heads=2,
    vae_batch=4,
    batch=2,
    length=8,
    context=8,
    chunk=2,
    generator_every=2,
    base_fraction=0.3,
)
UNITS = ("frame", "key-detail:2/2", "scales:2", "cube:2/2x3x2", "cube:1/1x3x4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("walks"), {1: 40, 3: 30, 20: 40}, poses=False)


def made(recipe: UnitsRecipe, clips: ClipStore) -> Networks:
    torch.manual_seed(0)
    return Networks(recipe.plan(clips.spec, None), clips.spec).train()


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_every_stage_takes_steps_and_the_world_plays(data: Path, tmp_path: Path, unit: str) -> None:
    clips, recipe = ClipStore(data), replace(TINY, unit=unit)
    networks = made(recipe, clips)
    stages = recipe.stages(networks, clips, warm=False)
    assert [stage.name for stage in stages] == ["tokenizer", "base", "causal", "distillation", "outcome"]
    for stage in stages:
        weights = [weight for group in stage.param_groups for weight in group.parameters]
        optimizer = torch.optim.Adam(weights, 1e-3)
        if stage.on_start is not None:
            stage.on_start()
        before = [weight.clone() for weight in weights]
        for step in range(3):
            loss, logs = stage.objective(np.random.default_rng(step), step / 3)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert all(np.isfinite(float(value)) for value in logs.values()), (stage.name, logs)
        changed = [not torch.equal(a, b) for a, b in zip(before, weights, strict=True)]
        assert np.mean(changed) > 0.6, stage.name
        if stage.name == "distillation":
            assert {"rollout_s", "score_s", "scorers_s", "generator_mb", "peak_mb", "motion"} <= set(logs)
    config = WorldConfig(name="walks", source=clips.spec, networks=networks.config)
    starts = choose_starts(ClipStore(data, split="held_out"))
    save_world(tmp_path / "walks", config, networks, starts, "# walks\n")
    world = load(tmp_path / "walks", device="cpu", dtype=torch.float32)
    assert (world.unit, world.units) == (unit, (unit,))
    session = world.engine(slots=3).open(seed=3)
    twin = session.fork()[0]
    keys = [Control({"forward"})] * 3 + [Control({"turn_left"})] * 2
    for control in keys:
        mine, other = session.step(control), twin.step(control)
        assert (mine.frame == other.frame).all()
    most = world.networks.generator.max_context
    assert most == max(2, 8 // world.unit_frames)
    with pytest.raises(EngineError, match=f"at most {most}"):
        world.engine(context=most + 1)
    with pytest.raises(ConfigError, match=f"trained for: {unit}"):
        world.engine(unit="cube:4/1x1x2")


@pytest.mark.slow
def test_a_world_of_several_units_is_played_under_each(data: Path, tmp_path: Path) -> None:
    clips = ClipStore(data)
    recipe = replace(TINY, unit="cube:2/2x1x2", other_units="key-detail:2/2,cube:2/1x1x1")
    networks = made(recipe, clips)
    causal = recipe.stages(networks, clips, warm=False)[2]
    assert causal.on_start is not None
    causal.on_start()
    for step in range(3):
        loss, _ = causal.objective(np.random.default_rng(step), 0.5)
        assert loss.isfinite()
    config = WorldConfig(name="walks", source=clips.spec, networks=networks.config)
    starts = choose_starts(ClipStore(data, split="held_out"))
    save_world(tmp_path / "walks", config, networks, starts, "# walks\n")
    world = load(tmp_path / "walks", device="cpu", dtype=torch.float32)
    assert world.units == ("cube:2/2x1x2", "key-detail:2/2", "cube:2/1x1x1")
    steps = [world.engine(unit=unit).open(3, 0).step() for unit in world.units]
    assert all(step.index == steps[0].index for step in steps)
    other = world.for_unit("key-detail:2/2")
    assert other.unit_cost.steps == 2
    assert other.units == ("key-detail:2/2", "cube:2/1x1x1", "cube:2/2x1x2")
    session = world.engine(1).open(3, 0)
    session.step()
    session.step()
    moved = other.engine(1).restore(session.snapshot())
    assert moved.step().index == session.index + 1


@pytest.mark.parametrize("scorer", ["full", "forward", "backward", "symmetric"])
def test_scorers(data: Path, scorer: str) -> None:
    clips, recipe = ClipStore(data), replace(TINY, scorer=scorer)  # type: ignore[arg-type]
    networks = made(recipe, clips)
    stage = recipe.stages(networks, clips, warm=False)[3]
    assert stage.on_start is not None
    assert isinstance(stage.companions, Companions)
    stir(networks)  # fresh networks all predict zeros, and agree
    stir(stage.companions.base, 2)
    stage.on_start()
    stir(stage.companions.scorers, 3)  # a full one begins as the base, and agrees with it
    generator, scorers = (group.parameters for group in stage.param_groups)
    for step in range(recipe.generator_every):  # one of them would be the turn of the generator
        loss, _ = stage.objective(np.random.default_rng(step), 0.0)
        loss.backward()
        assert all(weight.grad is None for weight in generator), "the scorers learn alone at first"
    loss, _ = stage.objective(np.random.default_rng(0), 1.0)
    loss.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in generator)
    assert any(weight.grad is not None and weight.grad.any() for weight in scorers)
    assert all(weight.grad is None for weight in stage.companions.base.parameters())
    loss, _ = stage.objective(np.random.default_rng(1), 1.0)  # a turn of the scorers alone
    for weight in (*generator, *scorers):
        weight.grad = None
    loss.backward()
    assert all(weight.grad is None for weight in generator)


@pytest.mark.parametrize("causal_data", ["base", "both"])
def test_causal_fine_tuning_on_samples_of_the_base(data: Path, causal_data: str) -> None:
    clips, recipe = ClipStore(data), replace(TINY, causal_data=causal_data)  # type: ignore[arg-type]
    stage = recipe.stages(made(recipe, clips), clips, warm=False)[2]
    sampled = []
    for step in range(4):
        loss, logs = stage.objective(np.random.default_rng(step), 0.0)
        assert loss.isfinite()
        sampled.append(float(logs["sampled"]))
    assert sampled == ([1.0] * 4 if causal_data == "base" else [0.0, 1.0, 0.0, 1.0])


@pytest.mark.slow
def test_it_is_trained_within_the_minutes_and_resumed(data: Path, tmp_path: Path) -> None:
    clips = ClipStore(data)
    networks = made(TINY, clips)
    stages = TINY.stages(networks, clips, warm=False)
    assert Trainer(networks, stages, tmp_path, 0.1, 0).run()
    again = made(TINY, clips)
    more = TINY.stages(again, clips, warm=False)
    resumed = Trainer(again, more, tmp_path, 0.1, 0)
    resumed.resume()
    assert resumed.progress.done
    kept, loaded = stages[0].companions, more[0].companions
    assert kept is not None
    assert loaded is not None
    for name, value in kept.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)


def test_stages_without_a_base(data: Path) -> None:
    clips, recipe = ClipStore(data), replace(TINY, base_fraction=UnitsRecipe().base_fraction)
    stages = recipe.stages(made(recipe, clips), clips, warm=False)
    assert [stage.name for stage in stages] == ["tokenizer", "causal", "outcome"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit": "cubes"},
        {"unit": "cube:4/3x1x1"},
        {"length": 9},
        {"length": 2},
        {"unit": "cube:2/1x2x1"},
        {"unit": "frame", "other_units": "scales:2"},
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(data: Path, wrong: dict[str, object]) -> None:
    clips = ClipStore(data)
    with pytest.raises(ConfigError):
        made(replace(TINY, **wrong), clips)  # type: ignore[arg-type]
