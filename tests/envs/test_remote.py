from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_array_equal

from tests.bridge.fake_server import FakeServer
from worldsim.bridge.client import UnansweredError
from worldsim.envs.remote import RemoteEnv, RemoteVectorEnv
from worldsim.errors import ConfigError, ControlError, EngineError

ID = "worldsim:WorldsimRemote-v0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    server = FakeServer(f"ipc://{tmp_path}/s", ends_at=3)
    yield server
    server.close()


@pytest.mark.parametrize("actions", ["discrete", "multi_binary", "box", "dict"])
def test_gymnasium_has_nothing_to_complain_about(server: FakeServer, actions: str) -> None:
    env = gymnasium.make(ID, address=server.address, actions=actions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()
    assert not server.sessions


def test_an_episode(server: FakeServer) -> None:
    env = RemoteEnv(server.address, render_mode="rgb_array")
    observation, info = env.reset(seed=3)
    assert observation.shape == (12, 16, 3)
    assert observation.flags.writeable
    assert (info["seed"], info["frame_index"]) == (3, 0)
    results = [env.step(action)[1:4] for action in (1, 0, 1)]
    assert results == [(1.0, False, False), (0.0, False, False), (1.0, True, False)]
    again, _ = env.reset(seed=3, options={"start": 0})
    assert_array_equal(again, observation)
    assert_array_equal(env.render(), observation)
    assert len(server.sessions) == 1
    env.close()
    env.close()
    assert not server.sessions


def test_a_context_and_a_reward_fn(server: FakeServer) -> None:
    env = RemoteEnv(server.address, reward_fn=lambda step: (step.index * 10, False), starts=[1])
    frames = np.zeros((2, 12, 16, 3), np.uint8)
    env.reset(seed=0, options={"context": {"frames": frames, "keys": [(), ("forward",)]}})
    assert server.seen[-1]["context"]["frames"]["shape"] == [2, 12, 16, 3]
    assert env.step(0)[1] == 10
    env.reset()
    assert server.seen[-1]["start"] == 1
    env.close()


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for entry in value.values():
            yield from leaves(entry)
    else:
        yield value


def test_a_vector_answers_as_gymnasiums_own_would(server: FakeServer) -> None:
    def make_one() -> gymnasium.Env:
        return gymnasium.wrappers.TimeLimit(RemoteEnv(server.address), 2)

    own = SyncVectorEnv([make_one] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    options = {"max_episode_steps": 2, "autoreset_mode": "SameStep"}
    ours = gymnasium.make_vec(ID, num_envs=2, address=server.address, **options)
    assert ours.single_observation_space == own.single_observation_space
    assert ours.single_action_space == own.single_action_space
    results = [(own.reset(seed=3), ours.reset(seed=3))]
    results += [(own.step(a), ours.step(a)) for a in np.array([[1, 0], [1, 1], [0, 1]])]
    for expected, got in results:
        for a, b in zip(expected[:-1], got[:-1], strict=True):
            assert_array_equal(a, b)
        assert expected[-1].keys() == got[-1].keys()
        assert_array_equal(expected[-1]["seed"], got[-1]["seed"])
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves(results[2][1][-1]))
    own.close()
    ours.close()
    ours.close()
    assert not server.sessions


def test_a_vector_is_stepped_in_one_message(server: FakeServer) -> None:
    envs = RemoteVectorEnv(5, address=server.address, autoreset_mode="Disabled")
    envs.reset(seed=0)
    server.seen.clear()
    envs.step(np.zeros(5, int))
    assert server.ops() == ["step_many"]
    envs.step(np.zeros(5, int))
    _, _, terminated, truncated, _ = envs.step(np.zeros(5, int))
    assert terminated.all()
    envs.reset(options={"reset_mask": terminated | truncated})
    envs.close()


def test_mistakes(server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(UnansweredError):
        RemoteEnv(f"ipc://{tmp_path}/nobody", timeout=0.1)
    with pytest.raises(ConfigError, match="actions"):
        RemoteEnv(server.address, actions="keys")
    with pytest.raises(ConfigError, match="num_envs"):
        RemoteVectorEnv(0, address=server.address)
    env = RemoteEnv(server.address)
    with pytest.raises(EngineError, match="reset"):
        env.step(0)
    env.reset()
    with pytest.raises(ControlError):
        env.step(99)
    env.close()
