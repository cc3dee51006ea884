"""Core of the single and the vector environment: a world, its engine, spaces and reward functions."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from worldsim.engine.temperature import Temperature, TemperatureRange
from worldsim.engine.world import load
from worldsim.envs.actions import Actions, make_actions
from worldsim.envs.reset_options import Start
from worldsim.envs.reward import RewardFns
from worldsim.envs.session_batch import SessionBatch, step_uncertainty
from worldsim.envs.start_distribution import StartDistribution, Starts
from worldsim.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from worldsim.engine.batch import WorldBatch
    from worldsim.engine.batch_step import BatchStep
    from worldsim.engine.engine import Engine
    from worldsim.engine.session import Session
    from worldsim.engine.step import Step
    from worldsim.engine.world import World

__all__ = ["OBSERVATIONS", "EnvCore", "draw_seed", "info_of"]

OBSERVATIONS = ("pixels", "latent")


class EnvCore:
    """A world behind ``slots`` episodes, with its Gymnasium spaces.

    Args:
        world: the name or the folder of a world, or one that is loaded already.
        slots: how many episodes may be open at once.
        actions: a kind of ``worldsim.envs.actions``, such as "discrete" or "continuous". None: "continuous"
            where the world takes continuous actions, else "discrete".
        denoising_steps: denoising steps per frame, K (default: the sampler's).
        device: where to load the world, "auto" or a torch device; unused for a loaded world.
        max_uncertainty: truncate an episode once its uncertainty exceeds this; None never does.
        reward_fn: function of rewards and ends; see ``worldsim.envs.reward.RewardFns``.
        starts: distribution of starts; see ``worldsim.envs.start_distribution.StartDistribution``.
        temperature: factor of the sampled noise, in [0, 10], or the lowest and the highest one; see
            ``ImaginedEnv``.
        observation: "pixels", or "latent": the frame's code, flattened, then the agent's features; then no
            frame is decoded. Served worlds support only pixels.
    """

    def __init__(
        self,
        world: str | os.PathLike[str] | World,
        *,
        slots: int,
        actions: str | None,
        denoising_steps: int | None,
        device: str,
        max_uncertainty: float | None,
        reward_fn: Any = None,
        starts: Starts = None,
        temperature: Temperature = 1.0,
        observation: str = "pixels",
    ) -> None:
        if observation not in OBSERVATIONS:
            raise ConfigError(f"observation must be one of {list(OBSERVATIONS)}", observation)
        if max_uncertainty is not None and not max_uncertainty > 0:
            raise ConfigError("max_uncertainty must be above 0", max_uncertainty, "pass None for no limit")
        self.world = load(os.fspath(world), device) if isinstance(world, str | os.PathLike) else world
        if max_uncertainty is not None and not self.world.tells_uncertainty:
            rule = "max_uncertainty needs a world with poses or with known chances of its bits"
            raise ConfigError(rule, max_uncertainty, "leave max_uncertainty out")
        if not hasattr(self.world, "batch") and observation != "pixels":
            raise ConfigError("a served world gives pixels", observation, "load the world here")
        self.temperature, self.observation = temperature, observation
        self._temperatures = TemperatureRange.read(temperature)
        self._slots, self._denoising_steps = slots, denoising_steps
        self.actions: Actions = make_actions(actions, self.world.spec.control_space)
        self.reward_fns = RewardFns(reward_fn, slots)
        self.starts = StartDistribution(starts, len(self.world.starts))
        self.max_uncertainty = max_uncertainty

    @cached_property
    def observation_space(self) -> spaces.Box:
        """Frames, uint8 [H, W, 3], or float32 [tokens C + A] without bounds."""
        if self.observation == "pixels":
            return spaces.Box(0, 255, (*self.world.spec.size, 3), np.uint8)
        tokens, channels = self.world.networks.tokenizer.latent_spec.shape
        length = tokens * channels + self.world.networks.generator.width
        return spaces.Box(-np.inf, np.inf, (length,), np.float32)

    def seen(self, step: BatchStep) -> Tensor:
        """The observations in a step, [N, ...]."""
        if self.observation == "pixels":
            return step.frame
        assert step.features is not None, "the engine is here"
        return step.features

    @cached_property
    def engine(self) -> Engine:
        """Engine of episodes that are stepped one by one."""
        return self.world.engine(
            slots=self._slots, denoising_steps=self._denoising_steps, rewind_frames=0
        )  # nobody rewinds an episode

    @cached_property
    def batch(self) -> WorldBatch | SessionBatch:
        """Batch of episodes that are stepped together."""
        if hasattr(self.world, "batch"):
            decode = self.observation == "pixels"
            return self.world.batch(
                self._slots,
                denoising_steps=self._denoising_steps,
                temperature=self.temperature,
                decode=decode,
            )
        space = self.world.spec.control_space
        return SessionBatch(self.engine, self._slots, space, self.temperature)

    @property
    def fps(self) -> int:
        """The world's frame rate, rounded: Gymnasium's tools need an integer."""
        return max(1, round(self.world.spec.fps))

    def open(self, slot: int, seed: int, start: Start) -> Session:
        """Begin an episode in ``slot``; its ``last`` step is what is seen before the first one."""
        place = self.start(seed) if start is None else start
        session = self.engine.open(seed, place, self._temperatures.of(seed))
        try:
            self.reward_fns.begin(slot, session.last)
        except BaseException:
            session.close()  # nobody else knows of it
            raise
        return session

    def start(self, seed: int) -> Start:
        """Draw the start of an episode with ``seed``; None: the engine picks one."""
        return self.starts.draw(seed)

    def is_lost(self, step: Step) -> bool:
        """True where an episode's uncertainty exceeds ``max_uncertainty``."""
        return self.max_uncertainty is not None and step_uncertainty(step) > self.max_uncertainty


def info_of(session: Session) -> dict[str, Any]:
    """Gymnasium's ``info`` on where a session stands; no ``pose`` in a world without a camera."""
    step = session.last
    info: dict[str, Any] = {} if step.pose is None else {"pose": step.pose.copy()}
    return info | {
        "pose_given": step.pose_given,
        "uncertainty": step.uncertainty,
        "known": step.known,
        "frame_index": step.index,
        "latency": session.latency,
        "seed": session.seed,
    }


def draw_seed(rng: np.random.Generator) -> int:
    """The seed of the next episode, in [0, 2**31)."""
    return int(rng.integers(2**31))
