"""One copy of a world's weights a process, and worlds that are pickled by name and hash."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from tests.tiny import lively_world
from worldsim.checkpoint import load_world, save_world
from worldsim.engine.world import World, load
from worldsim.errors import CheckpointError, EngineError

ID = "worldsim:WorldsimWorld-v0"


def test_a_world_is_loaded_once(tmp_path: Path) -> None:
    folder = lively_world(tmp_path)
    world = load(folder, "cpu")
    assert load(str(folder), "cpu") is world
    assert load(folder, "cpu", world.dtype) is world
    other = torch.bfloat16 if world.dtype == torch.float32 else torch.float32
    assert load(folder, "cpu", other) is not world
    stored = load_world(folder)
    save_world(folder, stored.config, stored.networks, stored.starts, "# another card")
    assert load(folder, "cpu").card == "# another card"


def test_environments_share_one_copy_of_the_weights(tmp_path: Path) -> None:
    folder = lively_world(tmp_path)
    envs = [gymnasium.make(ID, world=str(folder), device="cpu") for _ in range(6)]
    assert len({id(env.unwrapped.core.world) for env in envs}) == 1


def test_a_world_is_pickled_by_folder_and_digest(tmp_path: Path) -> None:
    folder = lively_world(tmp_path)
    world = load(folder, "cpu", torch.bfloat16)
    blob = pickle.dumps(world)
    assert len(blob) < 1000
    assert pickle.loads(blob) is world
    assert copy.deepcopy(world) is world
    lively_world(tmp_path)
    stored = load_world(folder)
    with torch.no_grad():
        next(stored.networks.parameters()).add_(1)
    save_world(folder, stored.config, stored.networks, stored.starts, stored.card)
    with pytest.raises(CheckpointError, match="the weights it had"):
        pickle.loads(blob)


def test_a_world_that_was_not_loaded_from_files_is_not_pickled(tmp_path: Path) -> None:
    world = World(load_world(lively_world(tmp_path)), torch.device("cpu"), torch.float32)
    with pytest.raises(EngineError, match="loaded from files"):
        pickle.dumps(world)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_engines_and_sessions_are_not_pickled(tmp_path: Path, copied: Callable[[object], object]) -> None:
    world = load(lively_world(tmp_path), "cpu")
    engine = world.engine(1)
    for one in (engine, engine.open(), world.batch(1)):
        with pytest.raises(EngineError, match=r"stay in its process.*Session\.snapshot"):
            copied(one)


def test_a_pickled_environment_goes_the_same_ways(tmp_path: Path) -> None:
    env = gymnasium.make(ID, world=str(lively_world(tmp_path)), device="cpu")
    env.reset(seed=1)
    env.step(0)
    twin = pickle.loads(pickle.dumps(env))
    for one, other in zip(env.reset(seed=3), twin.reset(seed=3), strict=True):
        np.testing.assert_equal(one, other)
    np.testing.assert_array_equal(env.step(1)[0], twin.step(1)[0])


def test_a_folder_that_is_no_world_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rglob", None)  # it may be the whole disk
    with pytest.raises(CheckpointError, match="must hold SHA256SUMS"):
        load(tmp_path, "cpu")
