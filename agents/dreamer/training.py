"""PPO on the latents of imagined frames, with action repeat and a short horizon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from worldsim.agents.dreamer.policy import LatentPolicy, PolicyMetadata
from worldsim.agents.learner import ppo_cleanrl
from worldsim.context import Context
from worldsim.engine.batch_step import BatchStep
from worldsim.engine.world import World
from worldsim.envs.action_repeat import ActionRepeat
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.reward import BatchedRewardFn
from worldsim.envs.sources import make_source
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.utils.progress import ProgressReporter
from worldsim.utils.threads import thread_limit

__all__ = ["DreamSettings", "TrainingResult", "real_beginnings", "train_policy"]

_PENALTY = 10.0
"""Cost of a certain end: a frame costs this times its termination probability."""
_FIRST_SEED = 3_000_000_000
"""First seed of the real episodes whose beginnings dreams start from; scored episodes lie above."""


_PPO = ppo_cleanrl.Settings(
    rollout=16, epochs=5, minibatches=4, learning_rate=2e-3, gamma=0.93, entropy=0.005
)


@dataclass(frozen=True, kw_only=True)
class DreamSettings:
    """Settings of a policy's training."""

    temperature: float = 1.15
    hold: int = 4
    """Frames that every decision is held."""
    dreams: int = 256
    """Side by side."""
    denoising_steps: int = 2
    """Denoising steps, K."""
    episode: int = 1050
    """Frames of an episode at most."""
    seed: int = 0
    ppo: ppo_cleanrl.Settings = field(default_factory=lambda: _PPO)


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training."""

    policy: LatentPolicy
    metadata: PolicyMetadata
    dream_frames: float
    """Mean length of the newest dreams that ended, in frames; NaN where none did."""
    frames_per_second: float
    """Imagined, learning included."""


def real_beginnings(world: World, count: int, seed: int) -> list[Context]:
    """The first frames of ``count`` real episodes, under random keys: where dreams begin."""
    space, rng = world.spec.control_space, np.random.default_rng((seed, 3))
    source, found = make_source(world.spec.name, world.spec.size), []
    try:
        for number in range(count):
            seen = [source.reset(_FIRST_SEED + seed * 10_000 + number)]
            controls = [np.zeros(space.size, np.float32)]
            for _ in range(int(rng.integers(1, 8))):
                control = space.from_discrete(int(rng.integers(len(space.discrete_actions))))
                seen.append(source.step(control))
                controls.append(space.vector(control).astype(np.float32))
            poses = [one.pose for one in seen if one.pose is not None]
            given = np.stack(poses) if world.networks.has_poses else None
            found.append(Context(np.stack([one.frame for one in seen]), np.stack(controls), given))
    finally:
        source.close()
    return found


def train_policy(
    world: World,
    minutes: float,
    settings: DreamSettings,
    tell: Callable[[str], None] = lambda line: None,
) -> TrainingResult:
    """Learn for ``minutes`` in dreams that begin where the world's starts are; Ctrl-C ends it early.

    ``tell`` is given a line of figures now and then.
    """
    envs = _envs(world, settings)
    try:
        with thread_limit(1):  # the dreams have threads of their own; what is left is small
            return _learn(envs, world, minutes, settings, tell)
    finally:
        envs.close()


def _learn(
    envs: ActionRepeat, world: World, minutes: float, settings: DreamSettings, tell: Callable[[str], None]
) -> TrainingResult:
    torch.manual_seed(settings.seed)
    observations, _ = envs.reset(seed=settings.seed)
    metadata = PolicyMetadata(
        world=world.name,
        features=observations.shape[1],
        actions=len(world.spec.control_space.discrete_actions),
        hold=settings.hold,
        temperature=settings.temperature,
    )
    policy = LatentPolicy(metadata).to(world.device)
    ppo, frames, began = settings.ppo, 0, time.monotonic()
    rollout, observations, _ = ppo_cleanrl.collect(envs, policy, observations, ppo)
    policy.normalise(rollout.frames)  # of what a policy that acts at random meets
    optimizer = torch.optim.Adam(policy.parameters(), ppo.learning_rate, eps=1e-5)
    logged_at, rate = began, 0.0
    with ProgressReporter("dreaming", 1.0) as reporter, contextlib.suppress(KeyboardInterrupt):
        while (progress := (time.monotonic() - began) / (60 * minutes)) < 1 or not frames:
            for group in optimizer.param_groups:
                group["lr"] = ppo.learning_rate * (1 - 0.9 * min(1.0, progress))
            rollout, observations, _ = ppo_cleanrl.collect(envs, policy, observations, ppo)
            with torch.no_grad():
                advantages = ppo_cleanrl.estimate_advantages(rollout, policy(observations)[1], ppo)
            ppo_cleanrl.improve(policy, optimizer, rollout, advantages, ppo)
            frames += settings.dreams * ppo.rollout * settings.hold
            rate = frames / (time.monotonic() - began)
            line = f"{frames} frames, {rate:.0f}/s, dreams of {_mean(envs):.0f} frames"
            reporter.update(min(1.0, progress), line)
            if time.monotonic() - logged_at > 30:
                logged_at = time.monotonic()
                tell(line)
    return TrainingResult(policy.eval(), replace(metadata, frames=frames), _mean(envs), rate)


def _envs(world: World, settings: DreamSettings) -> ActionRepeat:
    envs = ImaginedVectorEnv(
        settings.dreams,
        world=world,
        denoising_steps=settings.denoising_steps,
        temperature=settings.temperature,
        observation="latent",
        reward_fn=BatchedRewardFn(_survival),
        max_episode_steps=settings.episode,
        autoreset_mode="SameStep",
    )
    return ActionRepeat(EpisodeStatistics(envs), settings.hold)


def _survival(steps: BatchStep) -> tuple[torch.Tensor, torch.Tensor]:
    """Cost of the termination probability instead of drawn ends: the same mean with less variance."""
    assert steps.termination_prob is not None, "the engine is here"
    return -_PENALTY * steps.termination_prob, steps.terminated


def _mean(envs: ActionRepeat) -> float:
    return float(np.mean(envs.lengths)) if envs.lengths else float("nan")
