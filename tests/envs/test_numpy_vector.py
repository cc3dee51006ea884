from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from numpy.testing import assert_array_equal

from tests.envs.fake_world import FakeWorld
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.numpy_vector import NumpyVectorEnv
from worldsim.envs.vector import ImaginedVectorEnv


def leaves(value: object) -> list[object]:
    return (
        [leaf for entry in value.values() for leaf in leaves(entry)] if isinstance(value, dict) else [value]
    )


def test_it_answers_as_gymnasiums_own_vector_env_does() -> None:
    """The same seeds and actions through SyncVectorEnv over single environments: the same in every entry."""

    def make_one() -> gymnasium.Env:
        return gymnasium.wrappers.TimeLimit(ImaginedEnv(FakeWorld(ends_at=4)), 3)

    own = SyncVectorEnv([make_one] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    options = {"max_episode_steps": 3, "autoreset_mode": "SameStep"}
    ours = NumpyVectorEnv(ImaginedVectorEnv(2, world=FakeWorld(ends_at=4), **options))
    results = [(own.reset(seed=3), ours.reset(seed=3))]
    results += [(own.step(a), ours.step(a)) for a in np.array([[1, 0], [1, 1], [0, 1], [1, 1]])]
    for expected, got in results:
        for a, b in zip(expected[:-1], got[:-1], strict=True):
            assert_array_equal(a, b)
            assert isinstance(b, np.ndarray)
        a, b = expected[-1], got[-1]
        assert a.keys() == b.keys()
        for name in a.keys() - {"final_obs", "final_info"}:
            assert_array_equal(a[name], b[name])
            assert a[name].dtype == b[name].dtype
    final_a, final_b = results[3][0][-1], results[3][1][-1]
    for x, y in zip(final_a["final_obs"], final_b["final_obs"], strict=True):
        assert_array_equal(x, y)
    assert final_a["final_info"].keys() == final_b["final_info"].keys()


def test_no_tensor_is_left(fake: FakeWorld) -> None:
    envs = NumpyVectorEnv(ImaginedVectorEnv(2, world=fake, max_episode_steps=1))
    envs.reset(seed=0)
    *arrays, info = envs.step(np.array([0, 1]))
    assert all(isinstance(leaf, np.ndarray) for leaf in [*arrays, *leaves(info)])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_gymnasiums_statistics_count_on_it(mode: AutoresetMode) -> None:
    envs = RecordEpisodeStatistics(
        NumpyVectorEnv(ImaginedVectorEnv(2, world=FakeWorld(), max_episode_steps=2, autoreset_mode=mode))
    )
    envs.reset(seed=0)
    envs.step(np.array([1, 0]))
    *_, info = envs.step(np.array([1, 1]))
    assert_array_equal(info["_episode"], [True, True])
    assert_array_equal(info["episode"]["r"], [2, 1])
