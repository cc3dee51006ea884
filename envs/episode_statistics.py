"""Returns and lengths of a vector environment's episodes, kept in tensors."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from worldsim.envs.reset_options import mask_on

__all__ = ["EpisodeStatistics"]


class TensorVectorEnv(Protocol):
    """A Gymnasium vector environment whose observations, rewards and flags are tensors on one device."""

    num_envs: int
    device: torch.device
    autoreset_mode: AutoresetMode

    def choose_autoreset(self, mode: AutoresetMode) -> bool:
        """Take ``mode`` if nothing else is chosen yet; True where it is in use now."""


class EpisodeStatistics(VectorWrapper):
    """Add ``info["episode"]``: the return ``r`` float32 [N] and length ``l`` int64 [N] of episodes that end.

    The mask ``info["_episode"]`` bool [N] says which episodes ended; the other rows are 0. It counts under
    all autoreset modes and over partial resets, and never leaves the device.
    """

    env: Any
    """A ``TensorVectorEnv``; learners recognise environments by their bases, so it is no base class."""

    def __init__(self, env: TensorVectorEnv) -> None:
        super().__init__(cast(VectorEnv[Any, Any, Any], env))
        self._returns = torch.zeros(env.num_envs, device=env.device)
        self._lengths = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
        self._over = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The vector environment's."""
        return self.env.autoreset_mode

    def choose_autoreset(self, mode: AutoresetMode) -> bool:
        """As ``ImaginedVectorEnv.choose_autoreset``."""
        return self.env.choose_autoreset(mode)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """As the vector environment's; forgets the counts of the episodes that are reset."""
        result = self.env.reset(seed=seed, options=options)
        self._forget(mask_on(options, self.num_envs, self._returns.device))
        return result

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """As the vector environment's, with the statistics of the episodes that ended."""
        observations, rewards, terminations, truncations, info = self.env.step(actions)
        begun = self._over if self.autoreset_mode is AutoresetMode.NEXT_STEP else torch.zeros_like(self._over)
        over = terminations | truncations
        self._returns += rewards
        self._lengths += ~begun  # a step in which an episode only begins is none of its own
        info["episode"] = {"r": self._returns * over, "l": self._lengths * over}
        info["_episode"] = over
        self._forget(over)
        self._over = over
        return observations, rewards, terminations, truncations, info

    def _forget(self, mask: Tensor) -> None:
        self._returns.masked_fill_(mask, 0.0)
        self._lengths.masked_fill_(mask, 0)
        self._over = self._over & ~mask
