from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

from tests.envs.fake_world import FakeWorld
from worldsim.engine.world import World
from worldsim.envs.actions import KINDS
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, ControlError, EngineError

ID = "worldsim:WorldsimWorld-v0"
FORWARD = np.array([1, 1, 1])


def mask_of(*rows: int) -> np.ndarray:
    return np.isin(np.arange(3), rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_spaces_and_types(tiny_loaded: World, kind: str) -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, world=tiny_loaded, actions=kind, denoising_steps=1)
    assert isinstance(envs, ImaginedVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.action_space.seed(0)
    observations, info = envs.reset(seed=0)
    assert observations.numpy() in envs.observation_space
    for _ in range(2):
        observations, rewards, terminations, truncations, info = envs.step(envs.action_space.sample())
    assert observations.numpy() in envs.observation_space
    assert (rewards.dtype, rewards.shape) == (torch.float32, (2,))
    assert terminations.dtype == truncations.dtype == info["_uncertainty"].dtype == torch.bool
    assert (info["pose"].dtype, info["pose"].shape) == (torch.float64, (2, 4, 4))
    assert info["frame_index"].dtype == torch.int64
    envs.close()


def test_each_episode_is_what_a_single_env_with_its_seed_shows(tiny_loaded: World) -> None:
    envs = ImaginedVectorEnv(3, world=tiny_loaded, denoising_steps=1)
    single = ImaginedEnv(tiny_loaded, denoising_steps=1)
    first, _ = envs.reset(seed=10)
    second, *_, info = envs.step(torch.tensor([1, 2, 0]))
    second = info.get("final_obs", second)  # random weights end episodes at random
    for i, action in enumerate((1, 2, 0)):
        assert_array_equal(first[i], single.reset(seed=10 + i)[0])
        difference = second[i].numpy().astype(int) - single.step(action)[0]
        assert abs(difference).max() <= 1  # a larger batch may round differently


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_actions_may_be_arrays_or_tensors(fake: FakeWorld, array: Callable[[Any], Any]) -> None:
    envs = ImaginedVectorEnv(2, world=fake, actions="dict")
    envs.reset(seed=0)
    poses = np.stack([np.eye(4), np.zeros((4, 4))])
    keys = np.array([[1, 0, 0, 0, 0, 0], [0] * 6], np.int8)
    _, rewards, _, _, info = envs.step({"keys": array(keys), "pose": array(poses)})
    assert rewards.tolist() == [1, 0]
    assert info["pose_given"].tolist() == [True, False]


def test_same_step_autoreset() -> None:
    world = FakeWorld(ends_at=3)
    envs = gymnasium.make_vec(ID, num_envs=3, world=world, max_episode_steps=5, autoreset_mode="SameStep")
    _, info = envs.reset(seed=0)
    assert info["_seed"].all()
    for _ in range(2):
        *_, info = envs.step(FORWARD)
        assert "final_obs" not in info
    observations, rewards, terminations, truncations, info = envs.step(FORWARD)
    assert rewards.tolist() == [1, 1, 1]
    assert terminations.all()
    assert not truncations.any()
    assert info["_final_obs"].all()
    assert info["_final_info"].all()
    assert info["final_info"]["frame_index"].tolist() == [3, 3, 3]
    assert info["final_info"]["seed"].tolist() == [0, 1, 2]
    assert info["frame_index"].tolist() == [0, 0, 0]
    assert not torch.equal(info["seed"], info["final_info"]["seed"])
    alone = ImaginedEnv(world)
    alone.reset(seed=1)
    last = [alone.step(1)[0] for _ in range(3)][-1]
    assert_array_equal(info["final_obs"][1].numpy(), last)
    assert_array_equal(observations[1].numpy(), alone.reset()[0])  # the next episode of the same sequence


def test_only_what_is_over_begins_anew(fake: FakeWorld) -> None:
    envs = ImaginedVectorEnv(3, world=fake, max_episode_steps=4, autoreset_mode="SameStep")
    envs.reset(seed=0)
    envs.step(FORWARD)
    envs.reset(options={"reset_mask": mask_of(1)})
    for _ in range(2):
        envs.step(FORWARD)
    observations, _, terminations, truncations, info = envs.step(FORWARD)
    assert not terminations.any()
    assert truncations.tolist() == [True, False, True]
    assert info["_final_obs"].tolist() == info["final_info"]["_pose"].tolist() == [True, False, True]
    assert info["frame_index"].tolist() == [0, 3, 0]
    assert_array_equal(info["final_obs"][1], observations[1])  # a value network may take the whole batch


def test_disabled_autoreset_leaves_it_to_the_caller() -> None:
    envs = gymnasium.make_vec(
        ID, num_envs=3, world=FakeWorld(ends_at=2), autoreset_mode="Disabled", max_episode_steps=9
    )
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    envs.reset(seed=0)
    envs.reset(options={"reset_mask": torch.from_numpy(mask_of(0))})
    envs.step(FORWARD)
    envs.reset(options={"reset_mask": mask_of(2)})
    ended, _, terminations, _, info = envs.step(FORWARD)
    assert terminations.tolist() == [True, True, False]
    assert "final_obs" not in info
    assert info["frame_index"].tolist() == [2, 2, 1]
    with pytest.raises(EngineError, match="reset"):
        envs.step(FORWARD)
    options = {"reset_mask": terminations}
    observations, info = envs.reset(options=options)
    assert options == {"reset_mask": terminations}
    assert info["_seed"].tolist() == [True, True, False]
    assert info["frame_index"].tolist() == [0, 0, 1]
    assert_array_equal(observations[2], ended[2])
    envs.step(FORWARD)


def test_seeds_one_for_all_or_one_each(fake: FakeWorld) -> None:
    envs = ImaginedVectorEnv(3, world=fake)
    _, info = envs.reset(seed=5)
    assert info["seed"].tolist() == [5, 6, 7]
    _, later = envs.reset()
    _, info = envs.reset(seed=[9, None, 5], options={"reset_mask": mask_of(0, 2)})
    assert info["seed"].tolist() == [9, later["seed"][1], 5]
    _, again = envs.reset(options={"reset_mask": mask_of(2)})
    assert again["seed"][2] == later["seed"][0]  # seed 5 leads to the same sequence everywhere
    with pytest.raises(ConfigError, match="seeds"):
        envs.reset(seed=[1, 2])


def test_starts_for_all_or_for_each(fake: FakeWorld) -> None:
    envs = ImaginedVectorEnv(3, world=fake)
    frames = np.full((1, 12, 16, 3), 7, np.uint8)
    observations, _ = envs.reset(seed=0, options={"context": {"frames": frames, "keys": [()]}})
    assert (observations == 7).all()
    envs.reset(seed=0, options={"start": [4, 5, None]})
    assert [session.start for session in fake.engines[0].open_sessions] == [4, 5, None]
    with pytest.raises(ConfigError, match="start"):
        envs.reset(options={"start": [1, 2]})


def test_a_start_that_there_is_not_does_no_lasting_harm(tiny_loaded: World) -> None:
    envs = ImaginedVectorEnv(2, world=tiny_loaded, denoising_steps=1)
    for start in ([0, 99], 99):
        with pytest.raises(EngineError, match="start"):
            envs.reset(options={"start": start})
        envs.reset(seed=np.array([1, 2]))
        envs.step([0, 0])


@pytest.mark.parametrize("mask", [np.zeros(3, bool), np.ones(2, bool), np.ones(3), torch.ones(3)])
def test_masks_that_mean_nothing(fake: FakeWorld, mask: Any) -> None:
    envs = ImaginedVectorEnv(3, world=fake)
    envs.reset(seed=0)
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": mask})


def test_misuse(fake: FakeWorld) -> None:
    envs = ImaginedVectorEnv(3, world=fake)
    with pytest.raises(EngineError, match="reset"):
        envs.step(FORWARD)
    with pytest.raises(EngineError, match="first reset"):
        envs.reset(options={"reset_mask": mask_of(0)})
    envs.reset(seed=0)
    with pytest.raises(ControlError, match="each of 3"):
        envs.step([1, 1])
    with pytest.raises(ConfigError, match="autoreset_mode"):
        ImaginedVectorEnv(3, world=fake, autoreset_mode="Sometimes")
    with pytest.raises(ConfigError, match="num_envs"):
        ImaginedVectorEnv(0, world=fake)
    with pytest.raises(ConfigError, match="render_mode"):
        ImaginedVectorEnv(1, world=fake, render_mode="human")
    with pytest.raises(ConfigError, match="max_episode_steps"):
        ImaginedVectorEnv(1, world=fake, max_episode_steps=0)


@pytest.mark.parametrize("limit", [None, -1])
def test_no_time_limit(fake: FakeWorld, limit: int | None) -> None:
    envs = ImaginedVectorEnv(3, world=fake, max_episode_steps=limit)
    envs.reset(seed=0)
    assert not any(envs.step(FORWARD)[3].any() for _ in range(3))


def test_rendering_and_closing(fake: FakeWorld) -> None:
    envs = ImaginedVectorEnv(3, world=fake, render_mode="rgb_array")
    observations, _ = envs.reset(seed=0)
    drawn = envs.render()
    assert drawn is not None
    assert_array_equal(np.stack(drawn), observations)
    envs.close()
    envs.close()
    assert not fake.engines[0].open_sessions


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_episode_statistics(mode: AutoresetMode) -> None:
    envs = EpisodeStatistics(
        ImaginedVectorEnv(3, world=FakeWorld(ends_at=4), max_episode_steps=3, autoreset_mode=mode)
    )
    envs.reset(seed=0)
    envs.step(FORWARD)
    envs.reset(options={"reset_mask": mask_of(1)})
    envs.step(np.array([0, 1, 1]))
    *_, info = envs.step(FORWARD)
    assert info["_episode"].tolist() == [True, False, True]
    assert info["episode"]["r"].tolist() == [2, 0, 3]
    assert info["episode"]["l"].tolist() == [3, 0, 3]
    if mode is AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": info["_episode"]})
    *_, info = envs.step(FORWARD)
    assert info["episode"]["r"].tolist() == [0, 3, 0]
