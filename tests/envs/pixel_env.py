"""Tiny Gymnasium environments that show pixels, registered on import: ``tests.envs.pixel_env:Dots-v0``."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

MEANINGS = ("LEFT", "NOOP", "RIGHT")


class DotsEnv(gymnasium.Env[np.ndarray, int]):
    """A dot that moves left and right from a random place; the task ends at the right edge."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = spaces.Box(0, 255, (24, 32, 3), np.uint8)

    def __init__(self, render_mode: str | None = None, actions: spaces.Space[Any] | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = actions or spaces.Discrete(3)
        self._at = 0
        self.taken: list[Any] = []

    def get_action_meanings(self) -> tuple[str, ...]:
        return MEANINGS

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._at = int(self.np_random.integers(4, 20))
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        self._at = int(np.clip(self._at + int(np.ravel(action)[0]) - 1, 0, 31))
        return self._draw(), 1.0, self._at == 31, False, {}

    def _draw(self) -> np.ndarray:
        frame = np.zeros((24, 32, 3), dtype=np.uint8)
        frame[8:16, self._at] = (255, 128, 0)
        return frame


class RenderedDotsEnv(DotsEnv):
    """The same with a vector as its observation: the pixels come from ``render``."""

    observation_space = spaces.Box(0, 31, (1,), np.float32)  # type: ignore[assignment]

    def render(self) -> np.ndarray:
        return super()._draw()

    def _draw(self) -> np.ndarray:
        return np.array([self._at], dtype=np.float32)


class GreyDotsEnv(DotsEnv):
    """The same in grey, channel last."""

    observation_space = spaces.Box(0, 255, (24, 32, 1), np.uint8)

    def _draw(self) -> np.ndarray:
        return super()._draw()[..., :1]


class FlatDotsEnv(DotsEnv):
    """The same in grey without a channel."""

    observation_space = spaces.Box(0, 255, (24, 32), np.uint8)

    def _draw(self) -> np.ndarray:
        return super()._draw()[..., 0]


class MuteDotsEnv(DotsEnv):
    """The same without anything to render: it takes no mode."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self) -> None:
        super().__init__()


class StrictDotsEnv(DotsEnv):
    """The same with a window alone; it refuses other modes as Gymnasium's template does."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human"]}

    def __init__(self, render_mode: str | None = None) -> None:
        assert render_mode is None or render_mode in self.metadata["render_modes"]
        super().__init__(render_mode)


class ColoursFirstEnv(MuteDotsEnv):
    """The same as networks take it."""

    observation_space = spaces.Box(0, 255, (3, 24, 32), np.uint8)

    def _draw(self) -> np.ndarray:
        return np.moveaxis(super()._draw(), -1, 0)


class AlphaDotsEnv(RenderedDotsEnv):
    """Rendered with an alpha."""

    def render(self) -> np.ndarray:
        return np.concatenate([super().render(), np.full((24, 32, 1), 255, np.uint8)], 2)


class DarkEnv(RenderedDotsEnv):
    """Renders nothing, although it takes the mode."""

    def render(self) -> np.ndarray:
        raise NotImplementedError


class AnyActionEnv(DotsEnv):
    """Takes any action that is one of its space's."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return super().step(1)


ACTIONS = {
    "Keypad": spaces.MultiBinary((2, 3)),
    "Field": spaces.Box(-1, 1, (2, 2)),
    "Pair": spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (1,)))),
    "Named": spaces.Dict(move=spaces.Discrete(2, start=3), arm=spaces.Tuple((spaces.MultiBinary(2),))),
}

if "Dots-v0" not in gymnasium.registry:
    gymnasium.register("Dots-v0", DotsEnv, max_episode_steps=40, disable_env_checker=True)
    gymnasium.register("RenderedDots-v0", RenderedDotsEnv, max_episode_steps=40, disable_env_checker=True)
    gymnasium.register(
        "ShiftedDots-v0", DotsEnv, kwargs={"actions": spaces.Discrete(3, start=5)}, disable_env_checker=True
    )
    gymnasium.register(
        "Buttons-v0", DotsEnv, kwargs={"actions": spaces.MultiBinary(2)}, disable_env_checker=True
    )
    gymnasium.register("GreyDots-v0", GreyDotsEnv, max_episode_steps=40, disable_env_checker=True)
    gymnasium.register("FlatDots-v0", FlatDotsEnv, max_episode_steps=40, disable_env_checker=True)
    gymnasium.register(
        "Levers-v0",
        DotsEnv,
        max_episode_steps=40,
        kwargs={"actions": spaces.MultiDiscrete([3, 2], start=[0, 5])},
        disable_env_checker=True,
    )
    gymnasium.register(
        "Grid-v0",
        DotsEnv,
        kwargs={"actions": spaces.MultiDiscrete([[3, 2], [2, 2]])},
        disable_env_checker=True,
    )
    gymnasium.register(
        "Axes-v0",
        DotsEnv,
        kwargs={"actions": spaces.Box(np.float32([-1, 0]), np.float32([1, 2]))},
        disable_env_checker=True,
    )
    gymnasium.register(
        "Boundless-v0",
        DotsEnv,
        kwargs={"actions": spaces.Box(-np.inf, np.inf, (1,))},
        disable_env_checker=True,
    )
    for name, env in (
        ("Mute", MuteDotsEnv), ("Strict", StrictDotsEnv), ("ColoursFirst", ColoursFirstEnv),
        ("Alpha", AlphaDotsEnv), ("Dark", DarkEnv),
    ):  # fmt: skip
        gymnasium.register(f"{name}-v0", env, max_episode_steps=40, disable_env_checker=True)
    for name, actions in ACTIONS.items():
        gymnasium.register(f"{name}-v0", AnyActionEnv, kwargs={"actions": actions}, disable_env_checker=True)
    gymnasium.register("Words-v0", DotsEnv, kwargs={"actions": spaces.Text(3)}, disable_env_checker=True)
