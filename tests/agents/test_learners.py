from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.envs.fake_world import FakeWorld
from tests.tiny_moving import moving_world
from worldsim.agents.learner import ppo_cleanrl
from worldsim.engine.world import load
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.testing import tiny_world


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A learner's command line for a few frames of a tiny world."""
    world = tiny_world(tmp_path_factory.mktemp("worlds"), name="tiny")
    options = f"--world {world} --timesteps 16 --num-envs 2 --rollout 4 --episode 3 --device cpu"
    return options.split()


def test_cleanrl_runs(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "policy.safetensors"
    assert ppo_cleanrl.main([*command, "--out", str(saved)]) == 0
    assert capsys.readouterr().out.count("iteration") == 2
    assert "actor.weight" in load_file(saved)


@pytest.mark.slow
def test_cleanrl_learns() -> None:
    """Going forward is rewarded with 1 a frame: the policy finds out."""
    torch.manual_seed(0)
    world = FakeWorld(ends_at=20)
    envs = ImaginedVectorEnv(4, world=world, max_episode_steps=17, autoreset_mode="SameStep")
    history = ppo_cleanrl.train(
        EpisodeStatistics(envs), ppo_cleanrl.ActorCritic(5), 6 * 64, ppo_cleanrl.Settings(rollout=16), seed=0
    )
    assert history[0] < 0.5
    assert history[-1] > 0.75


@pytest.mark.slow
def test_sb3_runs(command: list[str], tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    from worldsim.agents.learner import ppo_sb3

    saved = tmp_path / "policy.safetensors"
    assert ppo_sb3.main([*command, "--out", str(saved)]) == 0
    assert "action_net.weight" in load_file(saved)


def test_sb3_learns_from_latents(tmp_path: Path) -> None:
    """A stock policy reads what is behind the frames, as the dream's own policies do."""
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from worldsim.envs.sb3 import SB3VecEnv

    envs = ImaginedVectorEnv(
        2, world=load(moving_world(tmp_path), "cpu"), observation="latent", max_episode_steps=3
    )
    learner = stable_baselines3.PPO("MlpPolicy", SB3VecEnv(envs), n_steps=4, batch_size=4, n_epochs=1, seed=0)
    before = learner.policy.mlp_extractor.policy_net[0].weight.detach().clone()
    learner.learn(8)
    assert before.shape[1] == envs.single_observation_space.shape[0] == 6 + 256
    assert not torch.equal(learner.policy.mlp_extractor.policy_net[0].weight, before)


@pytest.mark.slow
def test_torchrl_runs(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchrl")
    from worldsim.agents.learner import ppo_torchrl

    saved = tmp_path / "policy.safetensors"
    assert ppo_torchrl.main([*command, "--out", str(saved)]) == 0
    assert capsys.readouterr().out.count("iteration") == 2
    assert load_file(saved)


@pytest.mark.slow
def test_torchrl_learns() -> None:
    pytest.importorskip("torchrl")
    from worldsim.agents.learner import ppo_torchrl
    from worldsim.envs.torchrl import TorchRLEnv

    torch.manual_seed(0)
    vector = ImaginedVectorEnv(
        4, world=FakeWorld(ends_at=20), max_episode_steps=17, autoreset_mode="Disabled"
    )
    history = ppo_torchrl.train(TorchRLEnv(vector), *ppo_torchrl.make_policy(5), 6 * 64, 16)
    assert history[0] < 0.5
    assert history[-1] > 0.75


def test_skrl_runs(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skrl")
    from worldsim.agents.learner import ppo_skrl

    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "policy.safetensors"
    assert ppo_skrl.main([*command, "--out", str(saved)]) == 0
    assert "heads.policy.weight" in load_file(saved)
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]  # it writes no pickles of its own


@pytest.mark.slow
def test_skrl_learns() -> None:
    pytest.importorskip("skrl")
    from worldsim.agents.learner import ppo_skrl
    from worldsim.envs.skrl import SkrlEnv

    torch.manual_seed(0)
    vector = ImaginedVectorEnv(4, world=FakeWorld(ends_at=20), max_episode_steps=17)
    envs = SkrlEnv(vector)
    policy = ppo_skrl.SkrlActorCritic(envs)
    ppo_skrl.train(envs, policy, 6 * 64, 16)
    rewards = []
    for _ in range(17):
        with torch.no_grad():
            actions, _ = policy.act({"observations": envs.reset()[0]}, role="policy")
        rewards.append(float(envs.step(actions)[1].mean()))
    assert sum(rewards) / len(rewards) > 0.75
