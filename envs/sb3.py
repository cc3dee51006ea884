"""The vector environment as Stable-Baselines3 wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from worldsim.envs.numpy_vector import NumpyVectorEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, DependencyError, install

try:
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
except ModuleNotFoundError as error:
    raise DependencyError("worldsim.envs.sb3 needs Stable-Baselines3", None, install("sb3")) from error

__all__ = ["SB3VecEnv"]


class SB3VecEnv(VecEnv):
    """A ``VecEnv`` over one batched engine; wrap it in SB3's own ``VecMonitor`` for episode statistics.

    Frames stay [H, W, 3]: SB3 transposes images by itself. The last frame of an episode that ends is in its
    info as ``terminal_observation``, with ``TimeLimit.truncated`` where it was cut off and did not terminate.
    Attributes and methods asked for by name are those of the vector environment, the same for each episode.

    Args:
        env: a vector environment, as ``gymnasium.make_vec`` gives it; SAME_STEP autoreset is chosen.

    Raises:
        ConfigError: another autoreset mode.
    """

    def __init__(self, env: ImaginedVectorEnv) -> None:
        if not env.choose_autoreset(AutoresetMode.SAME_STEP):
            mode = env.autoreset_mode.value
            raise ConfigError("Stable-Baselines3 needs SAME_STEP autoreset", mode, "leave autoreset_mode out")
        self.env = env
        self._arrays = NumpyVectorEnv(env)
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin all episodes with the seeds and options that were set since the last reset."""
        names = sorted(set().union(*self._options))
        options = {name: [option.get(name) for option in self._options] for name in names}
        observations, info = self._arrays.reset(seed=self._seeds, options=options)
        self.reset_infos = [_row(info, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all episodes: observations, rewards, dones, one info for each."""
        observations, rewards, terminated, truncated, info = self._arrays.step(self._actions)
        dones = terminated | truncated
        infos = [_row(info["final_info"] if done else info, i) for i, done in enumerate(dones)]
        for i, one in enumerate(infos):
            one["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            if dones[i]:
                one["terminal_observation"] = info["final_obs"][i]
                self.reset_infos[i] = _row(info, i)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """End all episodes."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The frames, where the vector environment was made with ``render_mode="rgb_array"``."""
        return self.env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The vector environment's attribute, once for each index."""
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the vector environment's attribute, for all episodes at once."""
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call the vector environment's method once; its answer, once for each index."""
        answer = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [answer for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for each: there are no single environments that could be wrapped."""
        return [False for _ in self._get_indices(indices)]


def _row(info: dict[str, Any], i: int) -> dict[str, Any]:
    """Episode ``i``'s own info out of the batch's: scalars as Python numbers, poses as arrays."""
    names = [name for name in info if not name.startswith(("_", "final_"))]
    return {name: info[name][i].item() if info[name][i].ndim == 0 else info[name][i] for name in names}
