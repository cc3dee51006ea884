"""Any Gymnasium environment that shows pixels as a source; its keys come from its action space."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from worldsim.controls import Control
from worldsim.data.spec import SourceSpec
from worldsim.envs.sources.gym_actions import ActionMap, make_action_map
from worldsim.envs.sources.gym_packages import import_environments
from worldsim.envs.sources.source import Observation
from worldsim.errors import DependencyError, SourceError, install

__all__ = ["GymSource"]

_DEFAULT_FPS = 30.0


class GymSource:
    """The Gymnasium environment ``env_id``: its observation where that is an image, else what it renders.

    Images are uint8, RGB [H, W, 3] or grey [H, W, 1] or [H, W]; grey ones are shown as RGB. Observations with
    colours first, [3, H, W] or [1, H, W], count where the environment renders nothing.

    Args:
        env_id: what ``gymnasium.make`` takes. Of "NAMESPACE/Name-v0" the installed package that registers it
            is imported, of "module:Name-v0" the module, which may lie in the current folder.
        size: height and width of the frames, averaged over areas; by default the environment's own.

    Raises:
        SourceError: an unknown environment, one that shows no pixels, or actions that keys cannot express.
        DependencyError: a package that the environment needs is missing.
    """

    def __init__(self, env_id: str, size: tuple[int, int] | None = None) -> None:
        self._env = _make(env_id)
        self._shows_pixels = _is_image(self._env.observation_space)
        self._actions: ActionMap = make_action_map(self._env, env_id)
        self._is_running = False
        height, width = size or self._native_size()
        fps = self._env.metadata.get("render_fps") or _DEFAULT_FPS
        self.spec = SourceSpec(
            name=f"gym:{env_id}", size=(height, width), fps=float(fps), control_space=self._actions.space
        )

    def reset(self, seed: int) -> Observation:
        """Begin the episode that ``seed`` fixes."""
        observation, _ = self._env.reset(seed=seed)
        self._env.action_space.seed(seed)
        self._is_running = True
        return Observation(self._frame(observation))

    def step(self, control: Control) -> Observation:
        """Hold ``control`` for one step of the environment."""
        self.spec.control_space.validate(control)
        if not self._is_running:
            raise SourceError("a step needs a running episode", None, "call reset(seed) first")
        observation, reward, terminated, truncated, _ = self._env.step(self._actions.action(control))
        self._is_running = not (terminated or truncated)
        return Observation(
            self._frame(observation),
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated) and not terminated,
        )

    def walls(self) -> None:
        """There is no map."""

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _native_size(self) -> tuple[int, int]:
        observation, _ = self._env.reset(seed=0)
        height, width = self._pixels(observation).shape[:2]
        return height, width

    def _pixels(self, observation: Any) -> np.ndarray:
        pixels = observation if self._shows_pixels else self._rendered(observation)
        if not (isinstance(pixels, np.ndarray) and _is_picture(pixels.shape, pixels.dtype)):
            kind = getattr(pixels, "shape", type(pixels).__name__)
            rule = "an environment must show uint8 [H, W, 3], [H, W, 1] or [H, W]"
            raise SourceError(rule, kind, "choose one that renders pixels")
        grey = pixels[..., None] if pixels.ndim == 2 else pixels
        return np.repeat(grey, 3, 2) if grey.shape[2] == 1 else pixels

    def _rendered(self, observation: Any) -> Any:
        """The environment's picture without its alpha; the observation, where that is all there is to see."""
        if self._env.render_mode is None and _is_colours_first(self._env.observation_space):
            return np.moveaxis(observation, 0, -1)
        pixels: Any
        try:
            pixels = self._env.render()
        except Exception as error:  # a stranger's, of any kind
            rule = "an environment must render pixels"
            raise SourceError(rule, f"{type(error).__name__}: {error}"[:200], "choose another one") from error
        if isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[2] == 4:
            return pixels[..., :3]
        return pixels

    def _frame(self, observation: Any) -> np.ndarray:
        pixels = self._pixels(observation)
        if pixels.shape[:2] == self.spec.size:
            return pixels.copy()
        height, width = self.spec.size
        # BOX averages over areas, also by factors that are not whole.
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def _make(env_id: str) -> gymnasium.Env[Any, Any]:
    """The environment with frames to render, or as it is where it renders none."""
    import_environments(env_id)
    rule = "an environment must be known to Gymnasium and render pixels"
    try:
        try:
            return gymnasium.make(env_id, render_mode="rgb_array")
        except (TypeError, ValueError, AssertionError):  # as strangers refuse a mode that they don't have
            return gymnasium.make(env_id)
    except gymnasium.error.DependencyNotInstalled as error:
        # Not Gymnasium's own advice for Box2D: its extra brings pygame, which pygame-ce does not tolerate.
        remedy = install("box2d") if "Box2D" in str(error) else str(error)
        raise DependencyError(f"{env_id} needs a package that is missing", None, remedy) from error
    except Exception as error:  # a stranger's, of any kind
        raise SourceError(rule, env_id, f"{type(error).__name__}: {error}"[:400]) from error


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and _is_picture(space.shape, space.dtype)


def _is_colours_first(space: spaces.Space[Any]) -> bool:
    """True for images whose first axis holds colours."""
    shape = space.shape or ()
    return len(shape) == 3 and shape[0] in (1, 3) and _is_picture((*shape[1:], shape[0]), space.dtype)


def _is_picture(shape: tuple[int, ...], dtype: np.dtype[Any] | None) -> bool:
    """True for the shape and type of an image; its last axis, if there are three, holds colours."""
    return dtype == np.uint8 and len(shape) > 1 and min(shape) > 0 and shape[2:] in ((), (1,), (3,))
