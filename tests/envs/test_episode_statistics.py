from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.envs.fake_world import FakeWorld
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.numpy_vector import NumpyVectorEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError

N = 4


def make_envs(mode: AutoresetMode | str = "SameStep", **kwargs: Any) -> EpisodeStatistics:
    kwargs = {"world": FakeWorld(ends_at=7), "max_episode_steps": 5} | kwargs
    return EpisodeStatistics(ImaginedVectorEnv(N, autoreset_mode=mode, **kwargs))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_it_counts_as_a_ledger_kept_by_hand_does(mode: AutoresetMode, array: Callable[[Any], Any]) -> None:
    """Random actions and resets of random episodes, ended ones among them."""
    envs, rng = make_envs(mode), np.random.default_rng(0)
    returns, lengths, over = np.zeros(N), np.zeros(N, int), np.ones(N, bool)
    envs.reset(seed=0)
    for _ in range(60):
        mask = rng.random(N) < 0.1
        if mode is AutoresetMode.DISABLED:
            mask |= over
        if mask.any():
            envs.reset(options={"reset_mask": array(mask)})
            returns[mask] = lengths[mask] = 0
        _, rewards, terminations, truncations, info = envs.step(rng.integers(0, 2, N))
        returns, lengths = returns + rewards.numpy(), lengths + 1
        over = (terminations | truncations).numpy()
        assert info["_episode"].tolist() == over.tolist()
        assert info["episode"]["r"].tolist() == np.where(over, returns, 0).tolist()
        assert info["episode"]["l"].tolist() == np.where(over, lengths, 0).tolist()
        assert ("final_info" in info) == (mode is AutoresetMode.SAME_STEP and over.any())
        if mode is AutoresetMode.SAME_STEP:
            returns[over] = lengths[over] = 0


def test_types_and_devices() -> None:
    envs = make_envs(max_episode_steps=1)
    envs.reset(seed=0)
    *_, info = envs.step(np.ones(N, int))
    assert (info["episode"]["r"].dtype, info["episode"]["l"].dtype) == (torch.float32, torch.int64)
    assert info["episode"]["r"].device == info["_episode"].device == envs.env.device


def test_earlier_statistics_stay_as_they_were() -> None:
    envs = make_envs(max_episode_steps=2)
    envs.reset(seed=0)
    envs.step(np.ones(N, int))
    *_, info = envs.step(np.ones(N, int))
    envs.reset(seed=0)
    envs.step(np.ones(N, int))
    assert info["episode"]["r"].tolist() == [2] * N
    assert info["_episode"].all()


def test_rewards_of_a_function_are_counted() -> None:
    envs = make_envs(reward_fn=lambda step: (2.5, step.index == 2))
    envs.reset(seed=0)
    envs.step(np.zeros(N, int))
    *_, info = envs.step(np.zeros(N, int))
    assert info["episode"]["r"].tolist() == [5.0] * N


def test_options_stay_as_they_were() -> None:
    envs = make_envs("Disabled")
    envs.reset(seed=0)
    mask = torch.tensor([True, False, True, False])
    options = {"reset_mask": mask, "start": [1, None, 2, None]}
    _, info = envs.reset(seed=[5, None, 6, None], options=options)
    assert options == {"reset_mask": mask, "start": [1, None, 2, None]}
    assert mask.tolist() == [True, False, True, False]
    assert info["seed"].tolist() == [5, 1, 6, 3]
    assert [session.start for session in envs.env.batch._sessions] == [1, None, 2, None]
    envs.step(np.zeros(N, int))
    assert mask.tolist() == info["_seed"].tolist() == [True, False, True, False]


def test_a_reset_that_fails_forgets_nothing() -> None:
    envs = make_envs()
    envs.reset(seed=0)
    envs.step(np.ones(N, int))
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": torch.zeros(N, dtype=torch.bool)})
    for _ in range(4):
        *_, info = envs.step(np.ones(N, int))
    assert info["episode"]["r"].tolist() == [5] * N


def test_in_numpy() -> None:
    envs = NumpyVectorEnv(make_envs(max_episode_steps=1))
    envs.reset(seed=0)
    *_, info = envs.step(np.ones(N, int))
    assert isinstance(info["episode"]["r"], np.ndarray)
    assert info["episode"]["r"].tolist() == [1] * N
    assert envs.autoreset_mode is AutoresetMode.SAME_STEP
