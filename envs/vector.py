"""Many imagined episodes in one batched engine, as a Gymnasium vector environment of torch tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldsim.controls import Control
from worldsim.envs.dream import Dream, draw_seed, info_of
from worldsim.envs.reset_options import read_mask, read_starts
from worldsim.errors import ConfigError, ControlError, EngineError

if TYPE_CHECKING:
    from worldsim.engine.session import Session
    from worldsim.engine.world import World
    from worldsim.envs.reset_options import Start
    from worldsim.envs.starts import Starts

__all__ = ["ImaginedVectorEnv"]

Seeds: TypeAlias = int | Sequence[int | None] | None


class ImaginedVectorEnv(VectorEnv[Tensor, Any, Tensor]):
    """``num_envs`` episodes of one world, stepped as one batch.

    All that is returned is a tensor on the world's device, with the episodes first: observations uint8
    [N, H, W, 3], rewards float32 [N], terminations and truncations bool [N], and every entry of ``info`` as
    in ``ImaginedEnv``, with a mask ``_name`` bool [N] of the episodes that it is about. Actions may be
    tensors or NumPy arrays. For NumPy throughout, wrap it in ``NumpyVectorEnv``.

    With ``AutoresetMode.SAME_STEP`` an episode that ends begins anew in the same step; then ``info`` has
    ``final_obs`` [N, H, W, 3] and ``final_info`` with what the step itself led to, masked by ``_final_obs``
    and ``_final_info``. (Rows outside the mask hold the observation: a value network may take the whole
    batch.) With ``AutoresetMode.DISABLED`` the caller resets those that are over:
    ``reset(options={"reset_mask": terminations | truncations})``.

    Args:
        num_envs: number of episodes.
        world, actions, steps, device, drift_limit, referee, starts: as in ``ImaginedEnv``.
        render_mode: None or "rgb_array".
        max_episode_steps: truncate episodes at so many steps; None, or -1, never does.
        autoreset_mode: SAME_STEP or DISABLED, or their values "SameStep" and "Disabled".

    Raises:
        ConfigError: an argument out of its range. CheckpointError: no such world, or a damaged one.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # Gymnasium declares it so
        "render_modes": ["rgb_array"],
        "render_fps": 18,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str | os.PathLike[str] | World,
        actions: str = "discrete",
        steps: int = 2,
        device: str = "auto",
        render_mode: str | None = None,
        drift_limit: float | None = None,
        referee: Any = None,
        starts: Starts = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        self._sessions: list[Session] = []  # first: Gymnasium closes even what failed to be made
        if num_envs < 1:
            raise ConfigError("num_envs must be at least 1", num_envs)
        if render_mode not in (None, "rgb_array"):
            raise ConfigError("a vector's render_mode must be None or 'rgb_array'", render_mode)
        self.autoreset_mode = _autoreset(autoreset_mode)
        self.dream = Dream(
            world,
            slots=num_envs,
            actions=actions,
            steps=steps,
            device=device,
            drift_limit=drift_limit,
            referee=referee,
            starts=starts,
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.device = torch.device(self.dream.world.device)
        self.metadata = {
            **type(self).metadata, "render_fps": self.dream.fps, "autoreset_mode": self.autoreset_mode
        }  # fmt: skip
        self.single_action_space = self.dream.actions.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = self.dream.observation_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._limit = _limit(max_episode_steps)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)
        self._rngs: list[np.random.Generator] = []

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Begin all episodes, or those of ``options["reset_mask"]`` (bool [N], a tensor or NumPy).

        Args:
            seed: of the first episode, those after it get ``seed + i``; or one for each. None goes on with
                each one's last.
            options: ``reset_mask``, and ``start`` or ``context`` as in ``ImaginedEnv.reset``, one for all
                episodes or a list of N. Not changed.
        """
        mask = read_mask(options, self.num_envs)
        starts = read_starts(options, self.dream.world.spec.control_space, self.num_envs)
        if not self._sessions and not mask.all():
            raise EngineError(
                "the first reset must be of all episodes", mask.tolist(), "leave out reset_mask"
            )
        seeds = self._seeds(seed)
        if not self._sessions:
            self._begin_first(seeds, starts)
        else:
            for i in np.flatnonzero(mask).tolist():
                self._begin(i, seeds[i], starts[i])
        return self._frames(), self._info(mask)

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Move every episode one frame.

        Raises:
            EngineError: before the first reset, or (DISABLED) while an episode that ended is not reset.
            ControlError, CameraError: actions that mean nothing.
        """
        if not self._sessions or self._over.any():
            which = np.flatnonzero(self._over).tolist() or "all"
            raise EngineError("an episode must be reset before it is stepped", which, "call reset()")
        controls = self._decode(actions)
        steps = self.dream.engine.step(dict(zip(self._sessions, controls, strict=True)))
        arrived = [steps[session] for session in self._sessions]
        self._elapsed += 1
        rulings = [self.dream.referees.rule(i, s) for i, s in enumerate(arrived)]
        rewards = np.array([reward for reward, _ in rulings], np.float32)
        terminated = np.array([ended for _, ended in rulings], bool)
        truncated = np.array([self.dream.lost(s) for s in arrived], bool)
        truncated |= self._elapsed >= self._limit
        observations, info = self._autoreset(terminated | truncated)
        return observations, self._tensor(rewards), self._tensor(terminated), self._tensor(truncated), info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames, N x uint8 [H, W, 3], in mode "rgb_array"; else None."""
        return tuple(session.frame.copy() for session in self._sessions) if self.render_mode else None

    def close_extras(self, **kwargs: Any) -> None:
        """End all episodes."""
        for session in self._sessions:
            session.close()
        self._sessions = []

    def _autoreset(self, over: np.ndarray) -> tuple[Tensor, dict[str, Any]]:
        """Begin the episodes that are over, unless that is the caller's work, and say what is seen now."""
        everyone = np.ones(self.num_envs, bool)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            self._over = over
        if self.autoreset_mode is AutoresetMode.DISABLED or not over.any():
            return self._frames(), self._info(everyone)
        final_obs, final_info = self._frames(), self._info(over)
        for i in np.flatnonzero(over).tolist():
            self._begin(i, None, None)
        info = self._info(everyone)
        info |= {"final_obs": final_obs, "_final_obs": self._tensor(over)}
        info |= {"final_info": final_info, "_final_info": self._tensor(over)}
        return self._frames(), info

    def _begin_first(self, seeds: Sequence[int | None], starts: Sequence[Start]) -> None:
        self._rngs = [seeding.np_random(seed)[0] for seed in seeds]
        try:
            for i, (rng, seed, start) in enumerate(zip(self._rngs, seeds, starts, strict=True)):
                self._sessions.append(self.dream.open(i, draw_seed(rng) if seed is None else seed, start))
        except Exception:
            self.close_extras()  # all or none: the next reset is the first one again
            raise

    def _begin(self, i: int, seed: int | None, start: Start) -> None:
        """Begin episode ``i`` anew, with ``seed`` or the next one of its own sequence."""
        if seed is None:
            seed = draw_seed(self._rngs[i])
        else:
            self._rngs[i] = seeding.np_random(seed)[0]
        self._sessions[i].close()
        self._sessions[i] = self.dream.open(i, seed, start)
        self._elapsed[i], self._over[i] = 0, False

    def _seeds(self, seed: Seeds) -> Sequence[int | None]:
        if isinstance(seed, int | np.integer):
            VectorEnv.reset(self, seed=int(seed))
            return [int(seed) + i for i in range(self.num_envs)]
        if seed is None:
            return [None] * self.num_envs
        if len(seed) != self.num_envs:
            raise ConfigError(f"a list of seeds must have one for each of {self.num_envs}", len(seed))
        return [None if one is None else int(one) for one in seed]

    def _decode(self, actions: Any) -> list[Control]:
        rows = _rows(actions)
        if len(rows) != self.num_envs:
            raise ControlError(f"there must be an action for each of {self.num_envs} episodes", len(rows))
        return [self.dream.actions.decode(row) for row in rows]

    def _frames(self) -> Tensor:
        return self._tensor(np.stack([session.frame for session in self._sessions]))

    def _info(self, mask: np.ndarray) -> dict[str, Any]:
        rows = [info_of(session) for session in self._sessions]
        info: dict[str, Any] = {}
        for name in rows[0]:
            info[name] = self._tensor(np.stack([np.asarray(row[name]) for row in rows]))
            info[f"_{name}"] = self._tensor(mask.copy())
        return info

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    supported = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
    for candidate in supported:
        if mode in (candidate, candidate.value):
            return candidate
    raise ConfigError(f"autoreset_mode must be one of {[m.value for m in supported]}", mode)


def _limit(max_episode_steps: int | None) -> float:
    if max_episode_steps in (None, -1):
        return np.inf
    if max_episode_steps < 1:
        raise ConfigError("max_episode_steps must be at least 1", max_episode_steps, "pass None for no limit")
    return max_episode_steps


def _rows(actions: Any) -> list[Any]:
    """Batched actions, in tensors or arrays, as a list of NumPy ones."""
    if isinstance(actions, Mapping):
        columns = {name: _rows(column) for name, column in actions.items() if column is not None}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            raise ControlError("all entries of a batch of actions must be equally long", sorted(lengths))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return list(np.asarray(actions.detach().cpu() if isinstance(actions, Tensor) else actions))
