"""A learned world as a Gymnasium environment."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.utils import EzPickle

from worldsim.engine.temperature import Temperature
from worldsim.envs.env_core import EnvCore, draw_seed, info_of
from worldsim.envs.reset_options import read_prompts, read_start
from worldsim.envs.viewer import Viewer
from worldsim.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from worldsim.engine.session import Session
    from worldsim.engine.world import World
    from worldsim.envs.start_distribution import Starts

__all__ = ["ImaginedEnv"]


class ImaginedEnv(gymnasium.Env[np.ndarray, Any], EzPickle):
    """Step through a world one frame at a time; the model, or a reward function, gives rewards and ends.

    Observations are frames, uint8 [H, W, 3]. ``info`` has ``pose`` (float64 [4, 4], camera-to-world; absent
    in a world without a camera), ``pose_given`` (whether it was set, not imagined), ``uncertainty``
    (expected error of the frame in [0, 1]), ``frame_index``, ``latency`` (frames that the world imagines
    together) and the episode's ``seed``. The same seed, start and actions give the same frames. The time
    limit belongs to the registered id; ``max_uncertainty`` truncates as well. A pickle or copy of an
    environment is made anew from the same arguments and begins with ``reset``; it holds the world's name and
    the hash of its weights.

    Args:
        world: the name or the folder of a world, or one that is loaded already.
        actions: a kind of ``worldsim.envs.actions``, such as "discrete" or "continuous". None: "continuous"
            where the world takes continuous actions, else "discrete".
        denoising_steps: denoising steps per frame, K (default: the sampler's).
        device: where to load the world, "auto" or a torch device.
        render_mode: None, "rgb_array" or "human" (a window, kept up to date by ``reset`` and ``step``).
        max_uncertainty: truncate an episode once ``uncertainty`` passes this; None never does.
        reward_fn: ``(step) -> (reward, terminated)`` in place of what the model imagines, with or without a
            memory; see ``worldsim.envs.reward.RewardFns``.
        temperature: factor of the sampled noise, in [0, 10]: 1 as trained, 0 is deterministic. Of (low, high)
            each episode has one of its own, which follows from its seed: no error of the world then helps in
            all of them.
        starts: distribution of starts, used unless ``reset`` names one: numbers of the world's starts,
            weights by number, or a callable of a generator; see ``StartDistribution``. None: uniform.
        prompt: one of the world's prompts, in every control until ``reset`` names another; None: unknown.

    Raises:
        ConfigError: an argument out of its range. CheckpointError: no such world, or a damaged one.
        ControlError: a prompt that the world does not know.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # Gymnasium declares it so
        "render_modes": ["human", "rgb_array"],
        "render_fps": 18,
    }

    def __init__(
        self,
        world: str | os.PathLike[str] | World,
        *,
        actions: str | None = None,
        denoising_steps: int | None = None,
        device: str = "auto",
        render_mode: str | None = None,
        max_uncertainty: float | None = None,
        reward_fn: Any = None,
        starts: Starts = None,
        temperature: Temperature = 1.0,
        prompt: str | None = None,
    ) -> None:
        EzPickle.__init__(
            self,
            world,
            actions=actions,
            denoising_steps=denoising_steps,
            device=device,
            render_mode=render_mode,
            max_uncertainty=max_uncertainty,
            reward_fn=reward_fn,
            starts=starts,
            temperature=temperature,
            prompt=prompt,
        )
        modes = type(self).metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ConfigError(f"render_mode must be None or one of {modes}", render_mode)
        self.core = EnvCore(
            world,
            slots=1,
            actions=actions,
            denoising_steps=denoising_steps,
            device=device,
            max_uncertainty=max_uncertainty,
            reward_fn=reward_fn,
            starts=starts,
            temperature=temperature,
        )
        (self.prompt,) = read_prompts(prompt, self.core.world.spec.control_space, 1)
        self.metadata = {**type(self).metadata, "render_fps": self.core.fps}
        self.render_mode = render_mode
        self.observation_space = self.core.observation_space
        self.action_space = self.core.actions.space
        self.session: Session | None = None
        self._viewer: Viewer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of this episode and of the seeds of those after it; None goes on with the last one's.
            options: ``start``, the number of one of the world's starts, or ``context``, frames to go on from
                with their controls and poses; see ``worldsim.envs.reset_options.read_start``. ``prompt``, of
                this episode and those after it.
        """
        super().reset(seed=seed)
        space, named = self.core.world.spec.control_space, options or {}
        start = read_start(options, space)
        (self.prompt,) = read_prompts(named.get("prompt", self.prompt), space, 1)
        self._end()
        self.session = self.core.open(0, draw_seed(self.np_random) if seed is None else seed, start)
        return self._show(self.session)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move one frame with ``action`` held.

        Raises:
            EngineError: before the first reset. ControlError, CameraError: an action that means nothing.
        """
        session = self._open_session()
        step = session.step(replace(self.core.actions.decode(action), prompt=self.prompt))
        reward, terminated = self.core.reward_fns.evaluate(0, step)
        observation, info = self._show(session)
        return observation, reward, terminated, self.core.is_lost(step), info

    def render(self) -> np.ndarray | None:
        """The frame, uint8 [H, W, 3], in mode "rgb_array"; None in the others."""
        frame = self._open_session().frame
        return frame.copy() if self.render_mode == "rgb_array" else None

    def get_keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Key codes to actions, as ``gymnasium.utils.play`` wants them: WASD, and the arrows to turn."""
        return self.core.actions.keys_to_action()

    def close(self) -> None:
        """End the episode and close the window; may be called again."""
        self._end()
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

    def _show(self, session: Session) -> tuple[np.ndarray, dict[str, Any]]:
        if self.render_mode == "human":
            if self._viewer is None:
                self._viewer = Viewer(self.core.world.name, self.core.fps)
            self._viewer.show(session.frame)
        return session.frame.copy(), info_of(session)

    def _open_session(self) -> Session:
        if self.session is None:
            raise EngineError("an environment must be reset before it is used", None, "call env.reset()")
        return self.session

    def _end(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None
