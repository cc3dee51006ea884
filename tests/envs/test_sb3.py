from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

from tests.envs.fake_world import FakeWorld
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError

pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from worldsim.envs.sb3 import SB3VecEnv


def make_envs(**kwargs: object) -> SB3VecEnv:
    return SB3VecEnv(ImaginedVectorEnv(2, world=FakeWorld(ends_at=3), **kwargs))


def test_it_answers_as_sb3s_own_vec_env_does() -> None:
    own = DummyVecEnv([lambda: ImaginedEnv(FakeWorld(ends_at=3)) for _ in range(2)])
    ours = make_envs()
    for envs in (own, ours):
        envs.seed(4)
    assert_array_equal(own.reset(), ours.reset())
    assert [info["seed"] for info in own.reset_infos] == [info["seed"] for info in ours.reset_infos] == [4, 5]
    for action in np.array([[1, 0], [1, 1], [0, 1], [2, 2]]):
        expected, got = own.step(action), ours.step(action)
        for a, b in zip(expected[:3], got[:3], strict=True):
            assert_array_equal(a, b)
            assert a.dtype == b.dtype
        for a, b in zip(expected[3], got[3], strict=True):
            assert a.keys() == b.keys()
            for name in a:
                assert_array_equal(a[name], b[name])


def test_being_cut_off_is_no_termination() -> None:
    envs = make_envs(max_episode_steps=2)
    envs.seed(0)
    envs.reset()
    envs.step(np.array([1, 1]))
    _, _, dones, infos = envs.step(np.array([1, 1]))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True]
    assert infos[0]["terminal_observation"].shape == (12, 16, 3)


def test_options_attributes_and_statistics() -> None:
    envs = make_envs(render_mode="rgb_array")
    envs.set_options([{"start": 3}, {}])
    monitored = VecMonitor(envs)
    monitored.reset()
    assert [session.start for session in envs.env.core.engine.open_sessions] == [3, None]
    assert envs.get_attr("num_envs") == [2, 2]
    assert envs.get_attr("num_envs", indices=0) == [2]
    assert envs.env_is_wrapped(VecMonitor) == [False, False]
    assert len(envs.get_images()) == 2
    for _ in range(3):
        *_, infos = monitored.step(np.array([1, 0]))
    assert [info["episode"]["r"] for info in infos] == [3, 0]
    monitored.close()


def test_it_needs_same_step_autoreset() -> None:
    with pytest.raises(ConfigError, match="SAME_STEP"):
        make_envs(autoreset_mode=AutoresetMode.DISABLED)
