"""Real games as a vector environment of latents, and the learner of the dream in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import real_learner
from tests.agents.toy_game import FEWEST, STONES
from tests.tiny_moving import moving_world
from worldsim.agents.dreamer.batch_agents import PeriodicBatchAgent
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import load_policy
from worldsim.agents.dreamer.real_games import RealGamesEnv
from worldsim.agents.dreamer.training import DreamSettings, real_envs
from worldsim.engine.world import World, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_world(tmp_path_factory.mktemp("worlds"), "stones", spec=STONES)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, "cpu", torch.float32)


def test_its_latents_are_those_of_a_session_that_observes(world: World) -> None:
    envs = RealGamesEnv(world, 2, most=100, first_seed=7)
    first, _ = envs.reset()
    batch = world.batch(1, denoising_steps=1, decode=False)
    assert first.shape == (2, *(envs.single_observation_space.shape or ()))
    other = RealGamesEnv(world, 1, most=100, first_seed=7)
    alone, _ = other.reset()
    torch.testing.assert_close(first[:1], alone)
    for _ in range(3):
        both = envs.step(torch.tensor([1, 2]))[0]
        torch.testing.assert_close(both[:1], other.step(torch.tensor([1]))[0])
    assert (both[0] != both[1]).any()
    assert batch.count == 1
    envs.close()
    other.close()


def test_episodes_end_cost_and_begin_anew(world: World) -> None:
    envs = RealGamesEnv(world, 2, most=100, first_seed=1, end_cost=10.0)
    envs.reset()
    for frame in range(1, FEWEST + 1):
        _, rewards, ended, cut, info = envs.step(torch.zeros(2, dtype=torch.int64))
        assert not cut.any()
        assert ended.all() == (frame == FEWEST)
        assert rewards.tolist() == [-10.0 * (frame == FEWEST)] * 2
    assert info["final_obs"].shape[0] == 2
    assert envs.frames == 2 * FEWEST
    envs.close()
    short = RealGamesEnv(world, 1, most=4, first_seed=1)
    short.reset()
    flags = [short.step([0])[1:4] for _ in range(4)]
    assert [float(rewards) for rewards, _, _ in flags] == [1.0] * 4
    assert [bool(cut) for _, _, cut in flags] == [False, False, False, True]
    short.close()


def test_scores_are_tics_or_rewards() -> None:
    with Games(STONES.name, STONES.size, 2, most=100) as games:
        still = PeriodicBatchAgent(2, [0], 1)
        assert games.scores(still, [1, 2]).tolist() == [FEWEST] * 2
        assert games.scores(still, [1, 2], "reward").tolist() == [float(FEWEST)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["survival", "world"])
def test_the_same_learner_learns_in_real_games(folder: Path, tmp_path: Path, reward: str) -> None:
    line = [
        str(folder),
        "--out",
        str(tmp_path / "real"),
        "--frames",
        "130",
        "--games",
        "2",
        "--episodes",
        "2",
    ]
    line += ["--device", "cpu", "--threads", "1", "--reward", reward, "--hold", "2", "--episode", "30"]
    assert real_learner.main(line) == 0
    row = json.loads((tmp_path / "real" / "real.json").read_text())
    assert 130 <= row["frames"] <= 192
    assert row["by"] == ("tics" if reward == "survival" else "reward")
    policy = load_policy(tmp_path / "real" / "policy.safetensors")
    assert policy.metadata.reward == reward
    assert np.isfinite(row["mean"])


def test_actions_are_held_in_real_games(world: World) -> None:
    envs = real_envs(world, DreamSettings(dreams=2, hold=3, reward="survival"))
    envs.reset()
    envs.step(torch.tensor([1, 2]))
    assert isinstance(envs.unwrapped, RealGamesEnv)
    assert envs.unwrapped.frames == 6
    envs.close()
