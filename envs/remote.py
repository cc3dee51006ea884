"""Served worlds as Gymnasium environments: many workers share one engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from gymnasium.vector import AutoresetMode

from worldsim.bridge.client import Client, ClientKeys
from worldsim.engine.world import World
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.numpy_vector import NumpyVectorEnv
from worldsim.envs.remote_proxy import WorldProxy
from worldsim.envs.start_distribution import Starts
from worldsim.envs.vector import ImaginedVectorEnv

__all__ = ["RemoteEnv", "RemoteVectorEnv"]


class RemoteEnv(ImaginedEnv):
    """An ``ImaginedEnv`` whose world is served by ``worldsim serve``.

    Spaces, observations and ``info`` are the same. Make it in the process that steps it: the workers of a
    ``SubprocVecEnv`` or of RLlib share the server's engine, and none of them holds a network.

        SubprocVecEnv([lambda: RemoteEnv("doom-maze") for _ in range(8)])

    Args:
        address: of the server's data socket, ``ipc://PATH`` or ``tcp://HOST:PORT``.
        keys: for a server that asks for them.
        codec: "raw", or "jpeg" for a slow network.
        timeout: seconds after which a request is given up.
        actions, render_mode, max_uncertainty, reward_fn, starts, prompt: as in ``ImaginedEnv``.

    Raises:
        BridgeError: the server does not answer, or refuses. ConfigError: an argument out of its range.
    """

    def __init__(
        self,
        address: str,
        *,
        keys: ClientKeys | None = None,
        codec: str = "raw",
        timeout: float = 30.0,
        actions: str | None = None,
        render_mode: str | None = None,
        max_uncertainty: float | None = None,
        reward_fn: Any = None,
        starts: Starts = None,
        prompt: str | None = None,
    ) -> None:
        self.client = Client(address, keys, codec=codec, timeout=timeout, name="env")
        try:
            super().__init__(
                _world(self.client),
                actions=actions,
                render_mode=render_mode,
                max_uncertainty=max_uncertainty,
                reward_fn=reward_fn,
                starts=starts,
                prompt=prompt,
            )
        except BaseException:
            self.client.close()
            raise

    def close(self) -> None:
        """End the episode, close the window and hang up; may be called again."""
        super().close()
        self.client.close()


class RemoteVectorEnv(NumpyVectorEnv):
    """A ``NumpyVectorEnv`` whose episodes are served by ``worldsim serve``, all stepped in one message.

    Args:
        num_envs: number of episodes.
        address, keys, codec, timeout: as in ``RemoteEnv``.
        actions, render_mode, max_uncertainty, reward_fn, starts, prompt, max_episode_steps, autoreset_mode:
            as in ``ImaginedVectorEnv``.

    Raises:
        BridgeError: the server does not answer, or refuses. ConfigError: an argument out of its range.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        address: str,
        keys: ClientKeys | None = None,
        codec: str = "raw",
        timeout: float = 30.0,
        actions: str | None = None,
        render_mode: str | None = None,
        max_uncertainty: float | None = None,
        reward_fn: Any = None,
        starts: Starts = None,
        prompt: str | Sequence[str | None] | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str | None = None,
    ) -> None:
        self.client = Client(address, keys, codec=codec, timeout=timeout, name="vector env")
        try:
            env = ImaginedVectorEnv(
                num_envs,
                world=_world(self.client),
                actions=actions,
                render_mode=render_mode,
                max_uncertainty=max_uncertainty,
                reward_fn=reward_fn,
                starts=starts,
                prompt=prompt,
                max_episode_steps=max_episode_steps,
                autoreset_mode=autoreset_mode,
            )
        except BaseException:
            self.client.close()
            raise
        super().__init__(env)

    def close(self, **kwargs: Any) -> None:
        """End all episodes and hang up; may be called again."""
        super().close(**kwargs)
        self.client.close()


def _world(client: Client) -> World:
    """The server's world; an environment asks no more of one than a ``WorldProxy`` knows."""
    return cast(World, WorldProxy(client))
