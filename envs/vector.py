"""Many imagined episodes in one batched engine, as a Gymnasium vector environment of torch tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldsim.context import Context
from worldsim.engine.batch import WorldBatch
from worldsim.engine.temperature import Temperature
from worldsim.envs.batched_actions import BatchedActions
from worldsim.envs.env_core import EnvCore, draw_seed
from worldsim.envs.reset_options import mask_on, read_mask, read_starts
from worldsim.envs.reset_queue import ResetQueue
from worldsim.envs.reward import BatchedRewardFn
from worldsim.envs.session_batch import SessionBatch
from worldsim.errors import ConfigError, EngineError
from worldsim.sampling.upload import upload

if TYPE_CHECKING:
    from worldsim.engine.batch_step import BatchStep
    from worldsim.engine.world import World
    from worldsim.envs.reset_options import Start
    from worldsim.envs.start_distribution import Starts

__all__ = ["ImaginedVectorEnv"]

Seeds: TypeAlias = int | Sequence[int | None] | None


class ImaginedVectorEnv(VectorEnv[Tensor, Any, Tensor]):
    """``num_envs`` episodes of one world, stepped as one batch.

    All that is returned is a tensor on the world's device, with the episodes first: observations uint8
    [N, H, W, 3] (or float32 [N, L], of what is behind them), rewards float32 [N], terminations and
    truncations bool [N], and every entry of ``info`` as in ``ImaginedEnv``, with a mask ``_name`` bool [N] of
    the episodes that it is about. Actions may be tensors or NumPy arrays. For NumPy throughout, wrap it in
    ``NumpyVectorEnv``.

    With ``AutoresetMode.SAME_STEP`` an episode that ends begins anew in the same step; then ``info`` has
    ``final_obs`` [N, H, W, 3] and ``final_info`` with what the step itself led to, masked by ``_final_obs``
    and ``_final_info``. (Rows outside the mask hold the observation: a value network may take the whole
    batch.) With ``AutoresetMode.NEXT_STEP``, Gymnasium's usual mode, it begins anew in the next step, which
    leaves its action aside and gives reward 0. With ``AutoresetMode.DISABLED`` the caller resets those that
    are over: ``reset(options={"reset_mask": terminations | truncations})``.

    On a GPU a step copies nothing to the host and does not synchronise: actions are not checked (see
    ``BatchedActions``), ``final_obs`` is always there, a step that DISABLED would refuse goes on, and the
    next episodes' seeds and starts are prefetched. It synchronises once a step with a ``reward_fn`` of single
    steps (not a ``BatchedRewardFn``), with starts that are frames or a callable's, and with "dict" actions.

    A pickle or copy is made anew from the same arguments, with the autoreset mode in force, and begins with
    ``reset``, also if this one has begun; it holds the world's name and the hash of its weights.

    Args:
        num_envs: number of episodes.
        world, actions, denoising_steps, device, max_uncertainty, starts, temperature: as in ``ImaginedEnv``.
        observation: "pixels", or "latent": float32 [tokens x C + A], the frame's code, flattened, then the
            agent's features. No frame is decoded then, which is much faster; ``render`` has none to show.
        reward_fn: as there, or a ``worldsim.envs.reward.BatchedRewardFn`` of all episodes at once.
        render_mode: None or "rgb_array".
        prompt: as there, one for all episodes or a list of N.
        max_episode_steps: truncate episodes at so many steps; None, or -1, never does.
        autoreset_mode: NEXT_STEP, SAME_STEP or DISABLED, or their values "NextStep", "SameStep", "Disabled".
            None: NEXT_STEP, as Gymnasium's own vectors; an adapter to a learner chooses what that needs.

    Raises:
        ConfigError: an argument out of its range. CheckpointError: no such world, or a damaged one.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # Gymnasium declares it so
        "render_modes": ["rgb_array"],
        "render_fps": 18,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *positional: Any, **named: Any) -> Self:
        """Keep the arguments, for pickles and copies."""
        made = super().__new__(cls)
        made._arguments = positional, named
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the environment as its arguments.

        Raises:
            EngineError: its world is not loaded from files.
        """
        positional, named = self._arguments
        if not self._may_choose or self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            named = {**named, "autoreset_mode": self.autoreset_mode}
        return partial(type(self), *positional, **named), ()

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str | os.PathLike[str] | World,
        actions: str | None = None,
        denoising_steps: int | None = None,
        device: str = "auto",
        render_mode: str | None = None,
        max_uncertainty: float | None = None,
        reward_fn: Any = None,
        starts: Starts = None,
        temperature: Temperature = 1.0,
        observation: str = "pixels",
        prompt: str | Sequence[str | None] | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError("num_envs must be at least 1", num_envs)
        if render_mode not in (None, "rgb_array"):
            raise ConfigError("a vector's render_mode must be None or 'rgb_array'", render_mode)
        if render_mode and observation != "pixels":
            raise ConfigError("rendering needs observations of pixels", observation, "leave render_mode out")
        self._may_choose = autoreset_mode is None
        self.autoreset_mode = _autoreset(autoreset_mode or AutoresetMode.NEXT_STEP)
        self._batched_reward_fn = reward_fn if isinstance(reward_fn, BatchedRewardFn) else None
        self.core = EnvCore(
            world,
            slots=num_envs,
            actions=actions,
            denoising_steps=denoising_steps,
            device=device,
            max_uncertainty=max_uncertainty,
            reward_fn=None if self._batched_reward_fn else reward_fn,
            starts=starts,
            temperature=temperature,
            observation=observation,
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.device = torch.device(self.core.world.device)
        self.metadata = {
            **type(self).metadata, "render_fps": self.core.fps, "autoreset_mode": self.autoreset_mode
        }  # fmt: skip
        self.single_action_space = self.core.actions.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = self.core.observation_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.batch = self.core.batch
        self._limit = _limit(max_episode_steps)
        self._actions = BatchedActions(self.core.actions, num_envs, self.device)
        everyone = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self._actions.choose_prompts(prompt, everyone)
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._over = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._rngs: list[np.random.Generator] = []
        self._reset_queue: ResetQueue | None = None

    def choose_autoreset(self, mode: AutoresetMode) -> bool:
        """Take the mode that a learner needs if the caller named none and nothing has begun yet.

        Returns:
            Whether ``mode`` is in force.
        """
        if self._may_choose and not self._rngs:
            self.autoreset_mode = mode
            self.metadata = {**self.metadata, "autoreset_mode": mode}
        return self.autoreset_mode is mode

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Begin all episodes, or those of ``options["reset_mask"]`` (bool [N], a tensor or NumPy).

        Args:
            seed: of the first episode, those after it get ``seed + i``; or one for each. None goes on with
                each one's last.
            options: ``reset_mask``, and ``start`` or ``context``, and ``prompt`` as in ``ImaginedEnv.reset``,
                one for all episodes or a list of N. Not changed.
        """
        starts = read_starts(options, self.core.world.spec.control_space, self.num_envs)
        if options and "prompt" in options:
            self._actions.choose_prompts(options["prompt"], mask_on(options, self.num_envs, self.device))
        if self._reset_queue is not None and seed is None and not any(start is not None for start in starts):
            mask = mask_on(options, self.num_envs, self.device)
            self._restart(mask)
            return self._seen(mask)
        known = read_mask(options, self.num_envs)
        if not self._rngs and not known.all():
            raise EngineError(
                "the first reset must be of all episodes", known.tolist(), "leave out reset_mask"
            )
        rows = np.flatnonzero(known).tolist()
        seeds = self._seeds(seed)
        if self._rngs:
            self._begin(rows, [seeds[i] for i in rows], [starts[i] for i in rows])
        else:
            self._begin_first(seeds, starts)
        return self._seen(upload(known, self.device))

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Move every episode one frame.

        Raises:
            EngineError: before the first reset, or (DISABLED, where the host knows of it) while an episode
                that ended is not reset.
            ControlError, CameraError: actions that mean nothing.
        """
        waits = self.autoreset_mode is AutoresetMode.DISABLED and self._reset_queue is None
        if not self._rngs or (waits and bool(self._over.any())):
            which = self._over.nonzero().flatten().tolist() or "all"
            raise EngineError("an episode must be reset before it is stepped", which, "call reset()")
        arrived = self.batch.step(self._actions.controls(actions))
        self._elapsed, begun = self._elapsed + 1, self._over.clone()
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._renew(begun)
            arrived = self.batch.now
        rewards, terminated = self._rewards(arrived, begun)
        truncated = self._elapsed >= self._limit
        if self.core.max_uncertainty is not None:
            truncated = truncated | (arrived.uncertainty > self.core.max_uncertainty)
        rewards, terminated = rewards.masked_fill(begun, 0.0), terminated & ~begun
        truncated = truncated & ~begun
        observations, info = self._autoreset(arrived, terminated | truncated)
        return observations, rewards, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames, N x uint8 [H, W, 3], in mode "rgb_array"; else None."""
        return tuple(self.batch.now.frame.cpu().numpy().copy()) if self.render_mode else None

    def close_extras(self, **kwargs: Any) -> None:
        """End all episodes."""
        self._rngs, self._reset_queue = [], None
        if isinstance(self.batch, SessionBatch):
            self.batch.close()

    def _rewards(self, arrived: BatchStep, begun: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and ends, by the model or the reward function; void for episodes that have ``begun``."""
        if self._batched_reward_fn is not None:
            return self._batched_reward_fn(arrived)
        if self.core.reward_fns.imagined:
            return arrived.reward, arrived.terminated
        rows = zip(begun.tolist(), arrived.rows(), strict=True)
        results = [
            (0.0, False) if new else self.core.reward_fns.evaluate(i, step)
            for i, (new, step) in enumerate(rows)
        ]
        rewards = np.array([reward for reward, _ in results], np.float32)
        ended = np.array([end for _, end in results], bool)
        return upload(rewards, self.device), upload(ended, self.device)

    def _autoreset(self, arrived: BatchStep, over: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Begin the episodes that are over, unless that is the caller's work, and say what is seen now."""
        everyone = torch.ones_like(over)
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._over = over
            return self._seen(everyone)
        if not self._renew(over):
            return self._seen(everyone)
        observations, info = self._seen(everyone)
        info |= {"final_obs": self.core.seen(arrived), "_final_obs": over}
        info |= {"final_info": _info(arrived, over, self.core.world.unit_frames), "_final_info": over}
        return observations, info

    def _renew(self, over: Tensor) -> bool:
        """Begin the episodes that are over anew; False where the host knows that there are none."""
        if self._reset_queue is not None:
            self._restart(over)
            return True
        rows = over.nonzero().flatten().tolist()
        if rows:
            self._begin(rows, [None] * len(rows), [None] * len(rows))
        return bool(rows)

    def _restart(self, mask: Tensor) -> None:
        """Begin episodes anew that the host does not know."""
        assert self._reset_queue is not None
        assert isinstance(self.batch, WorldBatch)
        self.batch.restart(mask, *self._reset_queue.take(mask))
        self._elapsed = self._elapsed.masked_fill(mask, 0)
        self._over = self._over & ~mask

    def _begin_first(self, seeds: Sequence[int | None], starts: Sequence[Start]) -> None:
        self._rngs = [seeding.np_random(seed)[0] for seed in seeds]
        try:
            self._start(range(self.num_envs), self._filled(range(self.num_envs), seeds), starts)
        except Exception:
            self.close_extras()  # all or none: the next reset is the first one again
            raise
        if not self._waits:
            self._reset_queue = ResetQueue(self.num_envs, self.device, self._draw)

    def _begin(self, rows: Sequence[int], seeds: Sequence[int | None], starts: Sequence[Start]) -> None:
        """Begin episodes anew, with ``seeds`` or the next one of each one's own sequence."""
        seeded = [row for row, seed in zip(rows, seeds, strict=True) if seed is not None]
        filled = self._filled(rows, seeds)
        for row, seed in zip(rows, seeds, strict=True):
            if seed is not None:
                self._rngs[row] = seeding.np_random(seed)[0]
        if self._reset_queue is not None and seeded:
            self._reset_queue.forget(seeded)
        self._start(rows, filled, starts)

    def _start(self, rows: Sequence[int], seeds: Sequence[int], starts: Sequence[Start]) -> None:
        """Begin episodes at their given starts, or at those that their seeds draw."""
        places = [
            self.core.start(seed) if start is None else start
            for seed, start in zip(seeds, starts, strict=True)
        ]
        self.batch.begin(rows, seeds, places)
        if not self.core.reward_fns.imagined:
            shown = self.batch.now.rows()
            for row in rows:
                self.core.reward_fns.begin(row, shown[row])
        self._elapsed[list(rows)] = 0
        self._over[list(rows)] = False

    def _filled(self, rows: Sequence[int], seeds: Sequence[int | None]) -> list[int]:
        """``seeds`` of episodes ``rows``, those that are None drawn."""
        open_ = [row for row, seed in zip(rows, seeds, strict=True) if seed is None]
        if self._reset_queue is None:
            drawn = [draw_seed(self._rngs[row]) for row in open_]
        else:
            drawn = self._reset_queue.draw(open_) if open_ else []
        rest = iter(drawn)
        return [next(rest) if seed is None else seed for seed in seeds]

    def _draw(self, i: int) -> tuple[int, int]:
        """The next seed of place ``i``, and the number of the start that it leads to."""
        assert isinstance(self.batch, WorldBatch)
        seed = draw_seed(self._rngs[i])
        start = self.core.start(seed)
        assert not isinstance(start, Context)
        return seed, self.batch.pick_start(seed) if start is None else start

    @property
    def _waits(self) -> bool:
        """True if the host reads at each step which episodes are over, which synchronises a GPU."""
        if not isinstance(self.batch, WorldBatch) or not self.core.reward_fns.imagined:
            return True
        return not self.core.starts.numbered or not self.core.world.starts or self.device.type == "cpu"

    def _seeds(self, seed: Seeds) -> Sequence[int | None]:
        if isinstance(seed, int | np.integer):
            VectorEnv.reset(self, seed=int(seed))
            return [int(seed) + i for i in range(self.num_envs)]
        if seed is None:
            return [None] * self.num_envs
        if len(seed) != self.num_envs:
            raise ConfigError(f"a list of seeds must have one for each of {self.num_envs}", len(seed))
        return [None if one is None else int(one) for one in seed]

    def _seen(self, mask: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Copy of the observations, and the info about the episodes in ``mask``."""
        now = self.batch.now
        return self.core.seen(now).clone(), _info(now, mask, self.core.world.unit_frames)


def _info(step: BatchStep, mask: Tensor, latency: int) -> dict[str, Any]:
    info = {} if step.pose is None else {"pose": step.pose}
    info |= {
        "pose_given": step.pose_given,
        "uncertainty": step.uncertainty,
        "known": step.known,
        "frame_index": step.index,
        "latency": torch.full_like(step.index, latency),
        "seed": step.seed,
    }
    return info | {f"_{name}": mask.clone() for name in info}


def _autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    for candidate in AutoresetMode:
        if mode in (candidate, candidate.value):
            return candidate
    raise ConfigError(f"autoreset_mode must be one of {[m.value for m in AutoresetMode]}", mode)


def _limit(max_episode_steps: int | None) -> float:
    if max_episode_steps in (None, -1):
        return np.inf
    if max_episode_steps < 1:
        raise ConfigError("max_episode_steps must be at least 1", max_episode_steps, "pass None for no limit")
    return max_episode_steps
