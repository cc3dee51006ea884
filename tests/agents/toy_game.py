"""A tiny game that any process can open by name: stones fall where one stands; the third hit ends it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldsim.controls import ControlSpace
from worldsim.data.spec import SourceSpec

NAME = "gym:tests.agents.toy_game:Stones-v0"
SIZE = (24, 32)
COLUMNS, ROWS, LIVES = 8, 6, 3
FEWEST = ROWS * LIVES - 1
"""Frames of the shortest game: every stone hits."""
_KEYS = ("strafe_left", "strafe_right")
STONES = SourceSpec(
    name=NAME,
    size=SIZE,
    fps=20.0,
    control_space=ControlSpace(
        keys=_KEYS, yaw=False, pose=False, discrete_actions=((), *((key,) for key in _KEYS))
    ),
)


class StonesEnv(gymnasium.Env[np.ndarray, int]):
    """A stone begins above the player every ``ROWS`` frames and falls a row a frame."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0, 255, (*SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.render_mode = render_mode
        self._player = self._stone = self._row = self._lives = 0

    def get_action_meanings(self) -> list[str]:
        return ["noop", *_KEYS]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._player = int(self.np_random.integers(COLUMNS))
        self._stone, self._row, self._lives = self._player, 0, LIVES
        return self.render(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._player = int(np.clip(self._player + (0, -1, 1)[int(action)], 0, COLUMNS - 1))
        self._row += 1
        self._lives -= self._row == ROWS - 1 and self._stone == self._player
        if self._row == ROWS:
            self._stone, self._row = self._player, 0
        return self.render(), 1.0, self._lives == 0, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        frame = np.full((*SIZE, 3), 40, np.uint8)
        side = SIZE[1] // COLUMNS
        player, stone = (self._player, ROWS - 1, (0, 200, 0)), (self._stone, self._row, (255, 90, 0))
        for column, row, colour in (player, stone):
            top = min(row, ROWS - 1) * side
            frame[top : top + side, column * side : (column + 1) * side] = colour
        return frame


gymnasium.register("Stones-v0", entry_point=StonesEnv)
