"""Training of a policy on the latents of imagined frames, with action repeat, by PPO or CMA-ES."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from worldsim.agents.dreamer.learners import EvolutionLearner, Learner, PpoLearner
from worldsim.agents.dreamer.policy import LatentPolicy, PolicyMetadata
from worldsim.agents.dreamer.real_games import RealGamesEnv
from worldsim.agents.learner import ppo_cleanrl
from worldsim.engine.batch_step import BatchStep
from worldsim.engine.temperature import Temperature
from worldsim.engine.world import World
from worldsim.envs.action_repeat import ActionRepeat
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.reward import BatchedRewardFn
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError
from worldsim.utils.progress import ProgressReporter
from worldsim.utils.threads import thread_limit

__all__ = [
    "LEARNERS",
    "REWARDS",
    "DreamSettings",
    "LearnerName",
    "RewardName",
    "TrainingResult",
    "dream_envs",
    "real_envs",
    "train_policy",
]

MakeEnvs = Callable[["World", "DreamSettings"], "ActionRepeat"]
RewardName = Literal["auto", "survival", "world"]
REWARDS: tuple[RewardName, ...] = ("auto", "survival", "world")
LearnerName = Literal["ppo", "cma-es"]
LEARNERS: tuple[LearnerName, ...] = ("ppo", "cma-es")

_PENALTY = 10.0
"""Cost of a certain end: a frame costs this times its termination probability."""
_FIRST_REAL_SEED = 3_200_000_000
"""First seed of the real episodes that a learner without dreams plays."""
_EARLY = 0.1
"""Share of the time after which a policy is early."""
_KEPT_EVERY = 30.0
"""Seconds between the policies that are kept."""
_FEWEST_ENDS = 0.5
"""Expected ends in a first rollout of random play, below which a world has none to learn from."""

_PPO = ppo_cleanrl.Settings(
    rollout=16, epochs=5, minibatches=4, learning_rate=2e-3, gamma=0.93, entropy=0.005
)


@dataclass(frozen=True, kw_only=True)
class DreamSettings:
    """Settings of a policy's training.

    Raises:
        ConfigError: layers that the learner has none of, or dreams that its candidates cannot share.
    """

    temperature: float = 1.15
    hottest: float | None = None
    """Each dream has a temperature of its own, from ``temperature`` up to this; None: all have the same."""
    hold: int = 4
    """Frames that every decision is held."""
    dreams: int = 256
    """Side by side."""
    denoising_steps: int | None = None
    """Denoising steps, K; None: the sampler's default."""
    episode: int = 1050
    """Frames of an episode at most."""
    hidden: int = 64
    """Units of a layer of the policy; without layers: principal components that it is linear on."""
    layers: int = 1
    """Layers of the policy, 1 or 2; with "cma-es": 0."""
    reward: RewardName = "auto"
    """"survival": cost of the termination probability; "world": the reward that the world imagines; "auto":
    survival, unless the world imagines no ends."""
    seed: int = 0
    frames: int | None = None
    """Frames that are learnt from at most; None: the time alone ends it."""
    learner: LearnerName = "ppo"
    """"ppo": gradients for a small network; "cma-es": evolution of a linear policy."""
    ppo: ppo_cleanrl.Settings = field(default_factory=lambda: _PPO)
    population: int = 32
    """Candidates of a generation, 4 at least, which share the dreams equally; of "cma-es", as all below."""
    generation: int = 64
    """Decisions that a candidate plays in each of its dreams: so long is a dream at most."""
    sigma: float = 0.5
    """Standard deviation of the first generation's weights."""

    def __post_init__(self) -> None:
        _check_layers(self.learner, self.layers)
        if self.learner != "cma-es":
            return
        if self.population < 4 or self.generation < 1 or not self.sigma > 0:
            rule = "a generation has at least 4 candidates, which differ, and a decision"
            raise ConfigError(rule, (self.population, self.sigma, self.generation))
        if self.dreams < 1 or self.dreams % self.population:
            rule = f"dreams must be a multiple of the candidates, {self.population}"
            more = (self.dreams // self.population + 1) * self.population
            raise ConfigError(rule, self.dreams, f"use --dreams {more}, or another --population")


def _check_layers(learner: LearnerName, layers: int) -> None:
    """Refuse a policy that a learner cannot improve.

    Raises:
        ConfigError: "ppo" without layers, or "cma-es" with some.
    """
    if learner == "ppo" and not layers:
        raise ConfigError("ppo learns a policy with layers", layers, "use 1 or 2 layers, or cma-es")
    if learner == "cma-es" and layers:
        raise ConfigError("cma-es learns a policy without layers", layers, "use 0 layers, or ppo")


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training, or its state on the way."""

    policy: LatentPolicy
    metadata: PolicyMetadata
    dream_frames: float
    """Mean length of the newest dreams that ended, in frames; NaN where none did."""
    frames_per_second: float
    """Imagined, learning included."""
    minutes: float
    """Wall clock of learning so far, earlier calls included."""
    reward: RewardName
    """The reward that was chosen: "survival" or "world"."""
    finished: bool = True
    """False on the way, and where Ctrl-C ended the training."""


def train_policy(
    world: World,
    minutes: float,
    settings: DreamSettings,
    tell: Callable[[str], None] = lambda line: None,
    *,
    begun: TrainingResult | None = None,
    keep: Callable[[TrainingResult], None] = lambda state: None,
    make_envs: MakeEnvs | None = None,
) -> TrainingResult:
    """Learn for ``minutes`` in dreams that begin where the world's starts are; Ctrl-C ends it early.

    Args:
        world: what is dreamt.
        minutes: wall clock of learning in all.
        settings: sizes, rewards, temperature.
        tell: called with a line of figures now and then, and with warnings.
        begun: state of an interrupted training, which goes on.
        keep: called every half minute, and after a tenth of the time, with the state so far.
        make_envs: makes what is learnt in; None: dreams.
    """
    training = _Training(world, minutes, settings, begun, make_envs or dream_envs)
    with thread_limit(1):  # the dreams have threads of their own; what is left is small
        try:
            training.begin(tell)
            return training.run(tell, keep)
        finally:
            training.close()


class _Training:
    """A policy's training: environments, policy, learner, clock."""

    def __init__(
        self,
        world: World,
        minutes: float,
        settings: DreamSettings,
        begun: TrainingResult | None,
        make_envs: MakeEnvs,
    ) -> None:
        _check_layers(settings.learner, (settings if begun is None else begun.metadata).layers)
        torch.manual_seed(settings.seed)
        self._reward = settings.reward if begun is None else begun.reward
        settings = replace(settings, reward=self._reward)
        self._world, self._settings, self._limit = world, settings, minutes
        self._before = 0.0 if begun is None else begun.minutes
        self._threads = torch.get_num_threads()
        self._make_envs, self._frames, self._rate = make_envs, 0, 0.0
        self._envs = self._new_envs(settings)
        metadata = PolicyMetadata(
            world=world.name,
            features=int(np.prod(self._envs.single_observation_space.shape or (0,))),
            actions=len(world.spec.control_space.discrete_actions),
            hidden=settings.hidden,
            layers=settings.layers,
            hold=settings.hold,
            temperature=settings.temperature,
        )
        self._metadata = metadata if begun is None else begun.policy.metadata
        self._policy = LatentPolicy(metadata) if begun is None else deepcopy(begun.policy).train()
        self._policy.to(world.device)
        self._is_new = begun is None
        self._learner = _learner(self._policy, settings, self._metadata.frames)

    def begin(self, tell: Callable[[str], None]) -> None:
        """Begin dreams: inputs are scaled, and the reward is chosen, by what the policy meets first."""
        self._began = time.monotonic()
        self._observations, _ = self._envs.reset(seed=self._settings.seed)
        rollout, self._observations, _ = ppo_cleanrl.collect(
            self._envs, self._policy, self._observations, self._settings.ppo
        )
        if self._is_new:  # of what a policy that acts at random meets
            self._policy.normalise(rollout.frames)
            if not self._metadata.layers:
                self._policy.project(rollout.frames)
        if self._reward != "auto":
            return
        self._reward = "survival"
        if float(-rollout.rewards.sum()) < _FEWEST_ENDS * _PENALTY:
            self._reward = "world"
            tell("warning: this world imagines no ends; the policy learns from the world's reward instead")
            self._envs.close()
            self._envs = self._new_envs(replace(self._settings, reward="world"))
            self._observations, _ = self._envs.reset(seed=self._settings.seed)

    def run(self, tell: Callable[[str], None], keep: Callable[[TrainingResult], None]) -> TrainingResult:
        """Learn until the time is up or Ctrl-C comes, for one iteration at least."""
        kept_at, was_early, finished = self._began, self._share() < _EARLY, False
        with ProgressReporter("dreaming", 1.0) as reporter, contextlib.suppress(KeyboardInterrupt):
            while self._share() < 1 or not self._frames:
                self._improve()
                reporter.update(min(1.0, self._share()), self._line())
                is_late = was_early and self._share() >= _EARLY
                if is_late or time.monotonic() - kept_at > _KEPT_EVERY:
                    kept_at, was_early = time.monotonic(), was_early and not is_late
                    tell(self._line())
                    keep(self._result(finished=False))
            finished = True
        return self._result(finished)

    def close(self) -> None:
        self._envs.close()

    def _new_envs(self, settings: DreamSettings) -> ActionRepeat:
        """Environments with as many threads as the caller had: an engine counts them when it is made."""
        with thread_limit(self._threads):
            return self._make_envs(self._world, settings)

    def _improve(self) -> None:
        self._observations = self._learner.improve(self._envs, self._observations, self._share())
        self._frames += self._settings.dreams * self._learner.decisions * self._settings.hold
        self._rate = self._frames / (time.monotonic() - self._began)

    def _minutes(self) -> float:
        return self._before + (time.monotonic() - self._began) / 60

    def _share(self) -> float:
        frames = self._frames / self._settings.frames if self._settings.frames else 0.0
        return max(self._minutes() / self._limit, frames)

    def _line(self) -> str:
        return f"{self._frames} frames, {self._rate:.0f}/s, dreams of {_mean(self._envs):.0f} frames"

    def _result(self, finished: bool) -> TrainingResult:
        assert self._reward != "auto", "chosen by the first dreams"
        frames = self._metadata.frames + self._frames
        metadata = replace(self._metadata, frames=frames, reward=self._reward)
        policy = deepcopy(self._policy).cpu().eval()
        policy.metadata = metadata
        return TrainingResult(
            policy, metadata, _mean(self._envs), self._rate, self._minutes(), self._reward, finished
        )


def _learner(policy: LatentPolicy, settings: DreamSettings, frames: int) -> Learner:
    """The learner of a policy that has learnt from ``frames`` frames so far: if it goes on, by new chance."""
    if settings.learner == "ppo":
        return PpoLearner(policy, settings.ppo)
    return EvolutionLearner(
        policy,
        np.random.default_rng((settings.seed, frames)),
        population=settings.population,
        generation=settings.generation,
        sigma=settings.sigma,
    )


def dream_envs(world: World, settings: DreamSettings) -> ActionRepeat:
    """Dreams side by side, in which decisions are held."""
    envs = ImaginedVectorEnv(
        settings.dreams,
        world=world,
        actions="discrete",
        denoising_steps=settings.denoising_steps,
        temperature=_temperatures(settings),
        observation="latent",
        reward_fn=None if settings.reward == "world" else BatchedRewardFn(_survival),
        max_episode_steps=settings.episode,
        autoreset_mode="SameStep",
    )
    return ActionRepeat(EpisodeStatistics(envs), settings.hold)


def _temperatures(settings: DreamSettings) -> Temperature:
    if settings.hottest is None:
        return settings.temperature
    return settings.temperature, settings.hottest


def real_envs(world: World, settings: DreamSettings) -> ActionRepeat:
    """Real games side by side, ``settings.dreams`` of them, in which decisions are held.

    Episodes are none that a recording, a dream or a score begins with.
    """
    cost = None if settings.reward == "world" else _PENALTY
    first = _FIRST_REAL_SEED + settings.seed * 100_000
    games = RealGamesEnv(world, settings.dreams, settings.episode, first, cost)
    return ActionRepeat(EpisodeStatistics(games), settings.hold)


def _survival(steps: BatchStep) -> tuple[torch.Tensor, torch.Tensor]:
    """Cost of the termination probability instead of drawn ends: the same mean with less variance."""
    assert steps.termination_prob is not None, "the engine is here"
    return -_PENALTY * steps.termination_prob, steps.terminated


def _mean(envs: ActionRepeat) -> float:
    return float(np.mean(envs.lengths)) if envs.lengths else float("nan")
