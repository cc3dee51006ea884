"""The vector environment with NumPy arrays in place of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorWrapper
from torch import Tensor

from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.vector import ImaginedVectorEnv

__all__ = ["NumpyVectorEnv"]


class NumpyVectorEnv(VectorWrapper):
    """Wrap an ``ImaginedVectorEnv``, or its statistics, for learners that want Gymnasium's own formats.

    As ``ImaginedVectorEnv``, but NumPy arrays on the host; and ``info["final_obs"]`` is an object array with
    None for the episodes that go on, as Gymnasium's vector environments write it.

        envs = NumpyVectorEnv(gymnasium.make_vec("worldsim:DoomMaze-v0", num_envs=8))
    """

    env: ImaginedVectorEnv | EpisodeStatistics

    def __init__(self, env: ImaginedVectorEnv | EpisodeStatistics) -> None:
        super().__init__(env)

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The vector environment's."""
        return self.env.autoreset_mode

    def choose_autoreset(self, mode: AutoresetMode) -> bool:
        """As ``ImaginedVectorEnv.choose_autoreset``."""
        return self.env.choose_autoreset(mode)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """As ``ImaginedVectorEnv.reset``."""
        observations, info = self.env.reset(seed=seed, options=options)
        return _host(observations), _host(info)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As ``ImaginedVectorEnv.step``."""
        observations, rewards, terminations, truncations, info = map(_host, self.env.step(actions))
        if "final_obs" in info:
            info["final_obs"] = _sparse(info["final_obs"], info["_final_obs"])
        return observations, rewards, terminations, truncations, info


def _host(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _host(entry) for name, entry in value.items()}
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def _sparse(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``object [N]``: the rows in the mask, None for the others."""
    sparse = np.full(len(rows), None, object)
    for i in np.flatnonzero(mask):
        sparse[i] = rows[i]
    return sparse
