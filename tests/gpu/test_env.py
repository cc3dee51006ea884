"""A vector environment on a GPU: tensors throughout, and the host waits for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldsim.agents.dreamer.training import LEARNERS, DreamSettings, LearnerName, train_policy
from worldsim.agents.learner.ppo_cleanrl import Settings
from worldsim.engine.world import World, load
from worldsim.envs import reset_queue
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.vector import ImaginedVectorEnv

pytestmark = pytest.mark.gpu
N = 4


def test_everything_is_a_tensor_on_the_device(any_world: World) -> None:
    envs = ImaginedVectorEnv(N, world=any_world, denoising_steps=1, max_episode_steps=3)
    seen, info = envs.reset(seed=0)
    assert seen.device.type == any_world.device.type
    for _ in range(5):
        actions = torch.zeros(N, dtype=torch.int64, device=any_world.device)
        seen, reward, terminated, truncated, info = envs.step(actions)
        told = [seen, reward, terminated, truncated, *info.values()]
        told = [part for part in told if torch.is_tensor(part)]
        assert {part.device.type for part in told} == {any_world.device.type}
        assert seen.shape == (N, *any_world.spec.size, 3)
    envs.close()


def test_the_same_seed_gives_the_same_episodes(any_world: World) -> None:
    runs = []
    for _ in range(2):
        envs = ImaginedVectorEnv(N, world=any_world, denoising_steps=1, max_episode_steps=3)
        frames = [envs.reset(seed=7)[0]]
        actions = torch.arange(N, device=any_world.device) % 3
        frames += [envs.step(actions)[0] for _ in range(8)]
        runs.append(torch.stack(frames))
        envs.close()
    assert torch.equal(*runs)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_a_gpu_is_never_waited_for(folder: Path, device: torch.device, mode: str) -> None:
    if device.type != "cuda":
        pytest.skip("torch watches over GPUs alone")
    envs = EpisodeStatistics(
        ImaginedVectorEnv(
            N, world=load(folder, device), denoising_steps=2, max_episode_steps=3, autoreset_mode=mode
        )
    )
    envs.reset(seed=0)
    actions = torch.zeros(N, dtype=torch.int64, device=device)
    over = torch.ones(N, dtype=torch.bool, device=device)
    for _ in range(2):  # what is made once is made now
        envs.step(actions)
        envs.reset(options={"reset_mask": over})
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2 * reset_queue._PERIOD):
            *_, terminated, truncated, _ = envs.step(actions)
            if mode == "Disabled":
                envs.reset(options={"reset_mask": terminated | truncated})
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_policy_learns_in_dreams(moving: Path, device: torch.device, learner: LearnerName) -> None:
    world = load(moving, device)
    ppo = Settings(rollout=3, epochs=1, minibatches=2, gamma=0.9)
    settings = DreamSettings(
        dreams=2 * N,
        hold=2,
        episode=6,
        hidden=5,
        layers=1 if learner == "ppo" else 0,
        frames=1,
        reward="survival",
        learner=learner,
        population=N,
        ppo=ppo,
    )
    learnt = train_policy(world, 1.0, settings)
    assert learnt.finished
    assert all(weight.isfinite().all() for weight in learnt.policy.parameters())
