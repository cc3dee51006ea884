"""Observations of what is behind the frames, temperature, and actions that are held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.envs.fake_world import FakeWorld
from tests.tiny_moving import SPEC, moving_world
from worldsim.context import Context
from worldsim.engine.temperature import TemperatureRange
from worldsim.engine.world import World, load
from worldsim.envs.action_repeat import ActionRepeat
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.reward import BatchedRewardFn
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, EngineError
from worldsim.sampling.control_batch import ControlBatch

N = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(moving_world(tmp_path_factory.mktemp("worlds")), device="cpu", dtype=torch.float32)


def made(world: Any, **options: Any) -> ImaginedVectorEnv:
    return ImaginedVectorEnv(N, world=world, autoreset_mode="SameStep", **options)


def test_what_is_observed_is_what_the_frames_are_decoded_from(world: World) -> None:
    never = BatchedRewardFn(lambda step: (step.reward, torch.zeros_like(step.terminated)))
    blind, seeing = made(world, observation="latent", reward_fn=never), world.engine(N)
    sessions = [seeing.open(seed) for seed in range(N)]
    observed, _ = blind.reset(seed=0)
    assert observed.shape == (N, *blind.single_observation_space.shape) == (N, 6 + 256)
    assert observed.dtype == torch.float32
    for action in (1, 2, 0):
        observed, *_ = blind.step(np.full(N, action))
        told = seeing.step(dict.fromkeys(sessions, world.spec.control_space.from_discrete(action)))
        expected = np.stack([told[session].latent.reshape(-1) for session in sessions])
        np.testing.assert_allclose(observed[:, :6].numpy(), expected, atol=1e-5)
    assert observed[:, 6:].abs().sum() > 0
    assert blind.batch.now.frame.numel() == 0


def test_a_start_is_observed_too(world: World) -> None:
    batch = world.batch(1, decode=False)
    frames = world.starts[1].frames
    batch.begin([0], [5], [1])
    first = batch.now.features.clone()
    none = np.zeros((1, 2 + 1), np.float32)
    batch.begin([0], [5], [Context(frames[:1], none)])
    for frame in frames[1:]:
        batch.observe(frame[None], ControlBatch(none))
    torch.testing.assert_close(batch.now.features, first, atol=1e-5, rtol=1e-5)
    with pytest.raises(EngineError, match="uint8"):
        batch.observe(frames[:2], ControlBatch(none))


def test_temperature_reaches_the_dream(world: World) -> None:
    cold, warm = (made(world, observation="latent", temperature=value) for value in (0.0, 2.0))
    walks = {}
    for name, envs in (("cold", cold), ("warm", warm)):
        for seed in (0, 9):
            envs.reset(seed=seed, options={"start": 0})
            walks[name, seed] = envs.step(np.ones(N, int))[0]
    assert torch.equal(walks["cold", 0], walks["cold", 9])
    assert not torch.equal(walks["warm", 0], walks["warm", 9])
    single = ImaginedEnv(world, temperature=0.0)
    frames = []
    for seed in (0, 9):
        single.reset(seed=seed, options={"start": 0})
        frames.append(single.step(1)[0])
    np.testing.assert_array_equal(*frames)


def test_each_episode_has_a_temperature_of_its_own(world: World) -> None:
    """It follows from the episode's seed, by restarts on the device, too, and in one environment alone."""
    span = TemperatureRange(0.5, 2.5)
    batch = world.batch(40, temperature=(0.5, 2.5), decode=False)
    batch.begin(range(40), range(40), [0] * 40)
    found = batch._state.temperature
    torch.testing.assert_close(found, torch.tensor([span.of(seed) for seed in range(40)]))
    assert found.min() < 0.7
    assert found.max() > 2.3
    seeds = torch.arange(1_000, 1_040)
    batch.restart(torch.ones(40, dtype=torch.bool), seeds, torch.zeros_like(seeds))
    torch.testing.assert_close(batch._state.temperature, span.of_all(seeds))
    single = ImaginedEnv(world, temperature=(0.5, 2.5))
    single.reset(seed=7)
    assert single.session is not None
    assert 0.5 <= single.session.temperature <= 2.5
    first = single.session.temperature
    single.reset()
    assert single.session.temperature != first


def test_other_starts(world: World) -> None:
    frames = np.full((2, *SPEC.size, 3), 128, np.uint8)
    other = world.with_starts([Context(frames)])
    observed, _ = made(other).reset(seed=0)
    assert (observed == 128).all()
    assert len(world.starts) == 2


def test_refusals(world: World, fake: FakeWorld) -> None:
    for options in ({"observation": "depth"}, {"observation": "latent", "render_mode": "rgb_array"}):
        with pytest.raises(ConfigError):
            made(world, **options)
    with pytest.raises(EngineError, match="temperature"):
        made(world, temperature=-1.0)
    with pytest.raises(EngineError, match=r"\(low, high\)"):
        made(world, temperature=(2.0, 1.0))
    with pytest.raises(ConfigError, match="served world"):
        made(fake, observation="latent")


def test_the_chance_of_an_end_is_told_and_drawn(world: World) -> None:
    rule = BatchedRewardFn(lambda step: (step.termination_prob, step.terminated))
    envs = made(world, observation="latent", reward_fn=rule)
    envs.reset(seed=0)
    chances = torch.stack([envs.step(np.zeros(N, int))[1] for _ in range(5)])
    assert ((chances > 0) & (chances < 1)).all()


def test_held_actions_add_up_and_report_an_end_once() -> None:
    """A frame forward gives 1; an episode has 6 frames: it ends in the middle of the second decision."""
    envs = ActionRepeat(EpisodeStatistics(made(FakeWorld(ends_at=6))), 4)
    envs.reset(seed=0)
    _, rewards, terminated, _, info = envs.step(np.ones(N, int))
    assert rewards.tolist() == [4.0] * N
    assert not terminated.any()
    _, rewards, terminated, truncated, info = envs.step(np.ones(N, int))
    assert rewards.tolist() == [2.0] * N
    assert terminated.all()
    assert not truncated.any()
    assert info["episode"]["l"].tolist() == [6] * N
    assert info["episode"]["r"].tolist() == [6.0] * N
    assert list(envs.lengths) == [6] * N
    observations, *_ = envs.step(np.ones(N, int))  # the two frames after the new beginning count, too
    assert not torch.equal(observations, info["final_obs"])


def test_held_actions_need_same_step() -> None:
    envs = ImaginedVectorEnv(N, world=FakeWorld(), autoreset_mode="NextStep")
    with pytest.raises(ConfigError, match="SameStep"):
        ActionRepeat(EpisodeStatistics(envs), 4)
