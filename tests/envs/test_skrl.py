from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.envs.fake_world import FakeWorld
from worldsim.engine.world import World
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError

pytest.importorskip("skrl")
from skrl.envs.wrappers.torch import wrap_env
from skrl.utils.spaces.torch import unflatten_tensorized_space

from worldsim.envs.skrl import SkrlEnv


def make_vector(**kwargs: Any) -> ImaginedVectorEnv:
    return ImaginedVectorEnv(2, world=FakeWorld(ends_at=3), **{"autoreset_mode": "SameStep", **kwargs})


@pytest.mark.parametrize("kind", ["discrete", "box"])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_it_answers_as_skrls_own_wrapper_does(kind: str) -> None:
    own = wrap_env(make_vector(actions=kind), verbose=False)
    ours = SkrlEnv(make_vector(actions=kind))
    assert (ours.num_envs, ours.device) == (own.num_envs, own.device)
    assert ours.observation_space == own.observation_space
    assert ours.action_space == own.action_space
    own._seed = 5
    results = [(own.reset(), ours.reset(seed=5))]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        if kind == "discrete":
            actions = torch.randint(5, (2, 1), generator=generator)
        else:
            actions = torch.rand((2, 7), generator=generator) * 2 - 1
        results.append((own.step(actions), ours.step(actions)))
    results.append((own.reset(), ours.reset()))
    for expected, got in results:
        for a, b in zip(expected[:-1], got[:-1], strict=True):
            assert torch.equal(a, b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert expected[-1].keys() == got[-1].keys()


def test_frames_come_back_and_nothing_warns(tiny_loaded: World) -> None:
    vector = ImaginedVectorEnv(2, world=tiny_loaded, denoising_steps=1)
    envs = SkrlEnv(vector)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen, _ = envs.reset(seed=0)
        seen, rewards, terminated, truncated, _ = envs.step(torch.tensor([[1], [2]]))
    frames = unflatten_tensorized_space(envs.observation_space, seen)
    assert torch.equal(frames, vector.batch.now.frame)
    assert (seen.dtype, rewards.shape, terminated.shape, truncated.dtype) == (
        torch.uint8,
        (2, 1),
        (2, 1),
        torch.bool,
    )
    assert envs.state() is None
    envs.close()


def test_statistics_go_through() -> None:
    envs = SkrlEnv(EpisodeStatistics(make_vector(render_mode="rgb_array")))
    envs.reset()
    for _ in range(3):
        *_, info = envs.step(torch.tensor([[1], [0]]))
    assert info["episode"]["r"].tolist() == [3, 0]
    assert info["_episode"].all()
    assert np.stack(envs.render()).shape == (2, 12, 16, 3)


def test_what_it_cannot_take() -> None:
    with pytest.raises(ConfigError, match="SAME_STEP"):
        SkrlEnv(make_vector(autoreset_mode="Disabled"))
    for kind in ("multi_binary", "dict"):
        with pytest.raises(ConfigError, match="discrete or box"):
            SkrlEnv(make_vector(actions=kind))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))])
def test_a_copy_is_made_anew(tiny_loaded: World, copied: Callable[[SkrlEnv], SkrlEnv]) -> None:
    envs = SkrlEnv(ImaginedVectorEnv(2, world=tiny_loaded, denoising_steps=1))
    again = copied(envs)
    assert again.num_envs == 2
    assert torch.equal(again.reset(seed=3)[0], envs.reset(seed=3)[0])
