"""Gymnasium's NEXT_STEP autoreset, and Gymnasium's own vector wrappers in all three modes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as wrappers
from numpy.testing import assert_allclose, assert_array_equal

from tests.envs.fake_world import FakeWorld
from worldsim.engine.world import World
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.numpy_vector import NumpyVectorEnv
from worldsim.envs.reward import BatchedRewardFn
from worldsim.envs.vector import ImaginedVectorEnv

ID = "worldsim:WorldsimWorld-v0"
NEXT = AutoresetMode.NEXT_STEP
FORWARD = np.array([1, 1, 1])


def made(world: Any, mode: AutoresetMode | str | None = None, **options: Any) -> ImaginedVectorEnv:
    envs = gymnasium.make_vec(ID, num_envs=3, world=world, autoreset_mode=mode, **options)
    assert isinstance(envs, ImaginedVectorEnv)
    return envs


def reference(world: Any, mode: AutoresetMode, **options: Any) -> gymnasium.vector.SyncVectorEnv:
    """Gymnasium's own vector of single environments."""

    def one() -> gymnasium.Env[Any, Any]:
        env: gymnasium.Env[Any, Any] = ImaginedEnv(world, **options)
        return gymnasium.wrappers.TimeLimit(env, 5)

    return gymnasium.vector.SyncVectorEnv([one] * 3, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_episodes_are_those_of_gymnasium_s_own_vector(mode: AutoresetMode) -> None:
    ours = made(FakeWorld(ends_at=4), mode, max_episode_steps=5)
    theirs = reference(FakeWorld(ends_at=4), mode)
    rng = np.random.default_rng(0)
    first, other = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    assert_array_equal(first, other)
    for _ in range(14):
        actions = rng.integers(0, 5, 3)
        seen, expected = ours.step(actions), theirs.step(actions)
        for one, two in zip(seen[:4], expected[:4], strict=True):
            assert_allclose(one, two)
        assert_array_equal(seen[4]["frame_index"], expected[4]["frame_index"])


def test_an_episode_begins_in_the_step_after_its_end() -> None:
    envs = made(FakeWorld(ends_at=2), "NextStep")
    assert envs.metadata["autoreset_mode"] is NEXT
    envs.reset(seed=0)
    envs.reset(options={"reset_mask": np.array([False, False, True])})
    envs.step(FORWARD)
    ended, rewards, terminations, _, info = envs.step(FORWARD)
    assert terminations.tolist() == [True, True, True]
    assert "final_obs" not in info
    observations, rewards, terminations, truncations, info = envs.step(FORWARD)
    assert rewards.tolist() == [0, 0, 0]
    assert not (terminations | truncations).any()
    assert info["frame_index"].tolist() == [0, 0, 0]
    assert not torch.equal(observations, ended)
    *_, info = envs.step(FORWARD)
    assert info["frame_index"].tolist() == [1, 1, 1]


def test_a_partial_reset_after_the_end_is_not_done_twice() -> None:
    envs = made(FakeWorld(ends_at=2))
    envs.reset(seed=0)
    envs.step(FORWARD)
    envs.step(FORWARD)
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    *_, info = envs.step(FORWARD)
    assert info["frame_index"].tolist() == [1, 0, 0]


class Counts:
    """A reward function that remembers how often each episode was evaluated."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def reset(self, step: Any) -> None:
        self.seen = []

    def __call__(self, step: Any) -> tuple[float, bool]:
        self.seen.append(step.index)
        return float(len(self.seen)), len(self.seen) == 3


@pytest.mark.parametrize("together", [False, True])
def test_reward_fns_see_steps_only(together: bool) -> None:
    reward_fn: Any = Counts
    if together:
        reward_fn = BatchedRewardFn(lambda steps: (steps.index.float(), steps.index >= 3))
    envs = made(FakeWorld(), reward_fn=reward_fn)
    envs.reset(seed=0)
    told = [tuple(part.tolist()[0] for part in envs.step(FORWARD)[1:3]) for _ in range(5)]
    assert told == [(1, False), (2, False), (3, True), (0, False), (1, False)]


def test_a_real_world_begins_anew(tiny_loaded: World) -> None:
    never = BatchedRewardFn(lambda steps: (steps.reward, steps.index < 0))
    envs = made(tiny_loaded, max_episode_steps=2, denoising_steps=1, reward_fn=never)
    envs.reset(seed=0)
    indices = [envs.step([1, 0, 2])[4]["frame_index"].tolist() for _ in range(5)]
    begun = indices[2]
    assert indices[3] == [index + 1 for index in begun]
    assert indices[0] == indices[3]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_statistics_agree_with_gymnasium_s(mode: AutoresetMode) -> None:
    ours = EpisodeStatistics(made(FakeWorld(ends_at=3), mode))
    theirs = wrappers.RecordEpisodeStatistics(NumpyVectorEnv(made(FakeWorld(ends_at=3), mode)))
    rng = np.random.default_rng(1)
    ours.reset(seed=0), theirs.reset(seed=0)
    ended = 0
    for _ in range(9):
        actions = rng.integers(0, 2, 3)
        (*_, terminations, _, info), (*_, expected) = ours.step(actions), theirs.step(actions)
        for mask, told in [(expected.get("_episode"), expected.get("episode"))]:
            if mask is not None and mask.any():
                ended += 1
                assert_array_equal(info["_episode"], mask)
                assert_allclose(info["episode"]["r"], told["r"])
                assert_array_equal(info["episode"]["l"], told["l"])
        if mode is AutoresetMode.DISABLED and terminations.any():
            ours.reset(options={"reset_mask": terminations.numpy().copy()})
            theirs.reset(options={"reset_mask": terminations.numpy().copy()})
    assert ended >= 2


OBSERVERS = {
    "normalize": lambda env: wrappers.NormalizeObservation(env),
    "transform": lambda env: wrappers.TransformObservation(env, lambda seen: seen[:, ::2], None, half(env)),
    "grayscale": lambda env: wrappers.GrayscaleObservation(env),
    "resize": lambda env: wrappers.ReshapeObservation(env, (12 * 16, 3)),
    "rescale": lambda env: wrappers.RescaleObservation(env, 0, 1),
    "dtype": lambda env: wrappers.DtypeObservation(env, np.float32),
    "flatten": lambda env: wrappers.FlattenObservation(env),
}


def half(env: Any) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(0, 255, (6, 16, 3), np.uint8)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_observation_wrappers_run(mode: AutoresetMode, name: str) -> None:
    if name == "normalize" and mode is not NEXT:
        pytest.skip("Gymnasium's NormalizeObservation takes NEXT_STEP alone")
    if mode is AutoresetMode.SAME_STEP:
        pytest.skip("Gymnasium's observation wrappers refuse final_obs of SAME_STEP")
    env = OBSERVERS[name](NumpyVectorEnv(made(FakeWorld(ends_at=3), mode)))
    observations, _ = env.reset(seed=0)
    for _ in range(8):
        assert observations.shape == env.observation_space.shape
        observations, _, terminations, _, info = env.step(FORWARD)
        if mode is AutoresetMode.DISABLED and terminations.any():
            observations, _ = env.reset(options={"reset_mask": terminations})
        if "final_obs" in info:
            assert info["final_obs"][0].shape == env.single_observation_space.shape


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(
    ("wrap", "actions"),
    [
        (wrappers.NormalizeReward, "discrete"),
        (lambda env: wrappers.ClipReward(env, 0, 0.5), "discrete"),
        (wrappers.ClipAction, "box"),
    ],
    ids=["normalize", "clip", "actions"],
)
def test_reward_and_action_wrappers_run(mode: AutoresetMode, wrap: Any, actions: str) -> None:
    env = wrap(NumpyVectorEnv(made(FakeWorld(ends_at=3), mode, actions=actions)))
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(8):
        _, rewards, terminations, _, _ = env.step(env.action_space.sample())
        assert rewards.shape == (3,)
        assert np.isfinite(rewards).all()
        if mode is AutoresetMode.DISABLED and terminations.any():
            env.reset(options={"reset_mask": terminations})


def test_a_mode_that_is_not_named_is_the_learner_s_choice() -> None:
    for wrap in (lambda envs: envs, NumpyVectorEnv, EpisodeStatistics):
        envs = wrap(made(FakeWorld()))
        assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is NEXT
        assert envs.choose_autoreset(AutoresetMode.SAME_STEP)
        assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is AutoresetMode.SAME_STEP


def test_a_mode_that_is_named_or_in_use_stays() -> None:
    assert not made(FakeWorld(), "NextStep").choose_autoreset(AutoresetMode.DISABLED)
    envs = made(FakeWorld())
    envs.reset(seed=0)
    assert not envs.choose_autoreset(AutoresetMode.DISABLED)
    assert envs.metadata["autoreset_mode"] is NEXT


def test_stable_baselines_and_torchrl_choose_theirs() -> None:
    sb3 = pytest.importorskip("worldsim.envs.sb3")
    torchrl = pytest.importorskip("worldsim.envs.torchrl")
    assert sb3.SB3VecEnv(made(FakeWorld())).env.autoreset_mode is AutoresetMode.SAME_STEP
    assert torchrl.TorchRLEnv(made(FakeWorld())).env.autoreset_mode is AutoresetMode.DISABLED
