"""A game of your own as a Gymnasium environment: what `worldsim record` needs to learn a world from it.

cd examples
worldsim record gym:own_game:FallingBlocks-v0 --frames 20000 --out ../data/blocks
worldsim train blocks --data ../data/blocks --minutes 30 --out ../runs/blocks
worldsim play --world ../runs/blocks/blocks
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

HEIGHT, WIDTH = 48, 64


class FallingBlocks(gymnasium.Env[np.ndarray, int]):
    """Keep out of the way of blocks that fall down three lanes.

    Observations are frames, uint8 [48, 64, 3]. Actions: 0 stay, 1 left, 2 right. Each frame is worth 0.1;
    a hit ends the episode with -1. All chance comes from ``self.np_random``, so a seed fixes an episode.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in the middle lane."""
        super().reset(seed=seed)
        self.lane, self.block, self.height = 1, int(self.np_random.integers(3)), 0
        return self.render(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move by one lane at most; the block falls by three pixels."""
        self.lane = int(np.clip(self.lane + (0, -1, 1)[action], 0, 2))
        self.height += 3
        is_hit = self.height > HEIGHT - 16 and self.block == self.lane
        if self.height >= HEIGHT:
            self.block, self.height = int(self.np_random.integers(3)), 0
        return self.render(), -1.0 if is_hit else 0.1, is_hit, False, {}

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, which become the world's keys; "noop" is no key."""
        return ["noop", "left", "right"]

    def render(self) -> np.ndarray:
        """The frame, uint8 [48, 64, 3]."""
        frame = np.full((HEIGHT, WIDTH, 3), (25, 30, 45), np.uint8)
        frame[:, [21, 42]] = (70, 75, 90)
        frame[self.height : self.height + 8, 21 * self.block + 6 : 21 * self.block + 16] = (220, 90, 60)
        frame[HEIGHT - 8 :, 21 * self.lane + 6 : 21 * self.lane + 16] = (90, 200, 120)
        return frame


if "FallingBlocks-v0" not in gymnasium.registry:
    gymnasium.register("FallingBlocks-v0", entry_point=FallingBlocks, max_episode_steps=300)
