"""A world that was trained for several units is played under each of them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import lively_world, stir
from worldsim.agents.human.player import WorldPlayer
from worldsim.checkpoint import load_world, save_world
from worldsim.controls import Control
from worldsim.engine import World, load
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, EngineError
from worldsim.networks import Networks
from worldsim.units import CubeUnitConfig, FrameUnitConfig, KeyDetailUnitConfig

CUBE, KEYS = "cube:2/2x1x1", "key-detail:2/2"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of two units of two frames, whose context is bounded."""
    folder: Path = lively_world(tmp_path_factory.mktemp("units"), tokenizer="frame", poses=False)
    stored = load_world(folder)
    config = dataclasses.replace(
        stored.config.networks,
        unit=CubeUnitConfig(frames=2, splits=(2, 1, 1)),
        other_units=(KeyDetailUnitConfig(frames=2, groups=2),),
        generator=dataclasses.replace(stored.config.networks.generator, max_context=4, context=4),
    )
    torch.manual_seed(0)
    networks = Networks(config, stored.config.source)
    stir(networks)
    save_world(folder, dataclasses.replace(stored.config, networks=config), networks, stored.starts, "#")
    return load(folder, "cpu", torch.float32)


def test_units_are_told_and_chosen(world: World) -> None:
    assert (world.unit, world.units) == (CUBE, (CUBE, KEYS))
    assert world.for_unit(None) is world.for_unit(CUBE) is world
    other = world.for_unit(KEYS)
    assert other is world.for_unit(KEYS)
    assert (other.unit, other.units) == (KEYS, (KEYS, CUBE))
    assert other.networks.tokenizer is world.networks.tokenizer
    steps = [world.engine(1, unit=unit).open(3, 0).step(Control({"forward"})) for unit in world.units]
    assert not np.array_equal(steps[0].frame, steps[1].frame)


def test_the_key_frame_of_a_unit_comes_first(world: World) -> None:
    order = world.for_unit(KEYS).networks.unit.order()
    tokens = world.networks.tokenizer.latent_spec.tokens
    assert [part[0] // tokens for part in order] == [1, 0]


@pytest.mark.parametrize("unit", ["frame", "cube:2/1x1x1", "scales:2"])
def test_a_unit_that_it_was_not_trained_for_is_refused(world: World, unit: str) -> None:
    with pytest.raises(ConfigError, match=f"trained for: {CUBE}, {KEYS}; got '{unit}'"):
        world.engine(unit=unit)


def test_a_context_longer_than_trained_is_refused(world: World) -> None:
    assert world.engine(1).given_frames == 8
    with pytest.raises(EngineError, match="at most 4; got 5; choose 2 to 4"):
        world.engine(1, context=5)


def test_units_of_other_forms_share_no_weights(world: World) -> None:
    config = dataclasses.replace(world.config.networks, other_units=(FrameUnitConfig(),))
    with pytest.raises(ConfigError, match="2 frames"):
        Networks(config, world.spec)


def test_a_pickled_world_keeps_its_unit(world: World) -> None:
    assert pickle.loads(pickle.dumps(world.for_unit(KEYS))).unit == KEYS


def test_latency_is_in_info(world: World) -> None:
    env = ImaginedEnv(world)
    _, info = env.reset(seed=3)
    assert info["latency"] == 2
    assert env.step(1)[4]["latency"] == 2
    env.close()
    envs = ImaginedVectorEnv(2, world=world)
    assert envs.reset(seed=3)[1]["latency"].tolist() == [2, 2]
    envs.close()


def test_the_window_goes_on_under_the_next_unit(world: World) -> None:
    player = WorldPlayer(world, world.engine(3, rewind_frames=8), driver="human")
    assert "next_unit" not in player.lacking
    for _ in range(3):
        player.tick(Control({"forward"}))
    index = player.branch.session.index
    player.do("next_unit")
    assert player.world.unit == KEYS
    assert player.engine.world.unit == KEYS
    player.tick(Control({"forward"}))
    assert player.branch.session.index == index + 1
    player.do("next_unit")
    assert player.world.unit == CUBE
    player.close()


def test_cost_does_not_grow_and_the_past_is_evicted(world: World) -> None:
    """The cache has the same size after many times its context, and the first unit stays."""
    engine = world.engine(1, context=3, rewind_frames=0)
    session = engine.open(3, 0)
    size = engine.session_bytes
    for _ in range(60):
        session.step(Control({"forward"}))
    state = engine._states.copy(session.number)
    assert state.bytes_per_world() == size
    written = sorted(state.generator.written[0].tolist())  # type: ignore[attr-defined]
    assert written[0] == 0
    newest = int(state.generator.units) - 1
    assert written[1:] == [newest - 1, newest]
