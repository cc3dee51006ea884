"""The vector environment as skrl wants it."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, DependencyError, install

try:
    from skrl.envs.wrappers.torch import Wrapper
except ModuleNotFoundError as error:
    raise DependencyError("worldsim.envs.skrl needs skrl", None, install("skrl")) from error

__all__ = ["SkrlEnv"]


class SkrlEnv(Wrapper):
    """skrl's ``Wrapper`` over one batched engine: as ``wrap_env`` would make it, but no tensor is copied.

    As skrl has it, observations are flat, uint8 [N, H * W * 3] (``unflatten_tensorized_space`` gives models
    their frames back), and all else is [N, 1]. Episodes that end begin anew in the same step; ``reset`` after
    the first one only says what is seen.

    Args:
        env: a vector environment, as ``gymnasium.make_vec`` gives it, or ``EpisodeStatistics`` over one;
            with "discrete" or "box" actions. SAME_STEP autoreset is chosen.

    Raises:
        ConfigError: another autoreset mode, or other actions.
    """

    def __init__(self, env: ImaginedVectorEnv | EpisodeStatistics) -> None:
        if not env.choose_autoreset(AutoresetMode.SAME_STEP):
            mode = env.autoreset_mode.value
            raise ConfigError("skrl needs SAME_STEP autoreset", mode, "leave autoreset_mode out")
        if not isinstance(env.single_action_space, spaces.Discrete | spaces.Box):
            rule, remedy = "skrl needs discrete or box actions", "choose actions='discrete' or 'box'"
            raise ConfigError(rule, type(env.single_action_space).__name__, remedy)
        super().__init__(env)
        self._seen: tuple[Tensor, dict[str, Any]] | None = None

    def __reduce__(self) -> tuple[type[SkrlEnv], tuple[Any]]:
        """Pickle it as its environment, which is made anew."""
        return type(self), (self._env,)

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Space of one episode."""
        return self._env.single_observation_space

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Space of one episode."""
        return self._env.single_action_space

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin all episodes, the first time or where a seed is given; else what is seen now."""
        if self._seen is None or seed is not None:
            frames, info = self._env.reset(seed=seed)
            self._seen = frames.flatten(1), info
        return self._seen

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Move every episode one frame; ``actions`` int [N, 1], or float [N, entries] of box actions."""
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.flatten()
        frames, rewards, terminated, truncated, info = self._env.step(actions)
        self._seen = frames.flatten(1), info
        return self._seen[0], rewards[:, None], terminated[:, None], truncated[:, None], info

    def state(self) -> None:
        """None: what there is to know is in the observation."""

    def render(self) -> Any:
        """The frames, where the vector environment was made with ``render_mode="rgb_array"``."""
        return self._env.render()

    def close(self) -> None:
        """End all episodes."""
        self._env.close()
