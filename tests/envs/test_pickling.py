"""Pickles and copies of vector environments: made anew from the same arguments."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from tests.envs.fake_world import FakeWorld
from worldsim.bridge.client import Client
from worldsim.engine.world import World, load
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import BridgeError, EngineError

COPIES: list[Callable[[Any], Any]] = [
    lambda envs: pickle.loads(pickle.dumps(envs)),
    lambda envs: cloudpickle.loads(cloudpickle.dumps(envs)),
    copy.deepcopy,
]


def begun(envs: ImaginedVectorEnv) -> list[Tensor]:
    """Observations of a reset and two steps."""
    frames = [envs.reset(seed=5)[0]]
    return frames + [envs.step(torch.tensor([1, 2]))[0] for _ in range(2)]


@pytest.mark.parametrize("again", COPIES)
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_copy_is_made_anew_from_the_same_arguments(
    tiny_loaded: World, again: Callable[[Any], Any], has_begun: bool
) -> None:
    envs = ImaginedVectorEnv(2, world=tiny_loaded, denoising_steps=1, max_episode_steps=7)
    expected = begun(envs) if has_begun else None
    other = again(envs)
    assert (other.num_envs, other._limit, other.core.world) == (2, 7, tiny_loaded)
    with pytest.raises(EngineError, match="reset"):
        other.step(torch.tensor([0, 0]))
    for mine, theirs in zip(expected or begun(envs), begun(other), strict=True):
        assert torch.equal(mine, theirs)


def test_a_copy_keeps_the_autoreset_mode(tiny_loaded: World) -> None:
    envs = ImaginedVectorEnv(2, world=tiny_loaded, denoising_steps=1)
    assert pickle.loads(pickle.dumps(envs)).choose_autoreset(AutoresetMode.SAME_STEP)
    envs.choose_autoreset(AutoresetMode.SAME_STEP)
    assert pickle.loads(pickle.dumps(envs)).autoreset_mode is AutoresetMode.SAME_STEP


def test_a_world_that_is_not_in_files_cannot_be_pickled(tiny_loaded: World) -> None:
    world = tiny_loaded.with_starts([])
    with pytest.raises(EngineError, match="loaded from files"):
        pickle.dumps(ImaginedVectorEnv(2, world=world, denoising_steps=1))


def test_a_connection_cannot_be_pickled(fake: FakeWorld) -> None:
    fake.client = object.__new__(Client)  # type: ignore[attr-defined]
    fake.client.address = "ipc:///nowhere"  # type: ignore[attr-defined]
    for envs in (ImaginedEnv(fake), ImaginedVectorEnv(2, world=fake)):  # type: ignore[arg-type]
        with pytest.raises(BridgeError, match="connection"):
            cloudpickle.dumps(envs)


def test_a_world_is_loaded_once_by_whatever_type_it_is_asked_for(tiny_loaded: World) -> None:
    assert tiny_loaded.origin is not None
    by_default = load(tiny_loaded.origin, "cpu")
    assert (by_default is tiny_loaded) == (by_default.dtype == tiny_loaded.dtype)
