"""A toy source in which one bright square moves over a striped wall; its labels tell where."""

from __future__ import annotations

import numpy as np

from worldsim.data.episodes import EpisodeArrays
from worldsim.data.spec import SourceSpec

SIDE = 4


def square_at(spec: SourceSpec, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``uint8 [T, H, W, 3]`` with the square at these corners, and its masks ``bool [T, H, W]``."""
    height, width = spec.size
    wall = np.arange(width) % 8 * 6 + 40
    frames = np.broadcast_to(wall[None, None, :, None], (len(rows), height, width, 3)).astype(np.uint8)
    masks = np.zeros((len(rows), height, width), bool)
    for mask, row, column in zip(masks, rows, columns, strict=True):
        mask[row : row + SIDE, column : column + SIDE] = True
    return np.where(masks[..., None], np.array([250, 180, 40], np.uint8), frames), masks


class SquareCollector:
    """The square goes one pixel right a frame, with a key two; the episode ends after 40 to 59 frames."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec

    def play(self, seed: int) -> EpisodeArrays:
        length = 40 + seed * 7 % 20
        controls = self.open_loop_controls(seed, length)
        ways = np.concatenate([[0], np.cumsum(1 + controls[:, 0])[:-1]]).astype(int)
        rng = np.random.default_rng(seed)
        row, column = int(rng.integers(self.spec.size[0] - SIDE)), int(rng.integers(40))
        frames, masks = square_at(
            self.spec, np.full(length, row), (column + ways) % (self.spec.size[1] - SIDE)
        )
        is_last = np.arange(length) == length - 1
        return EpisodeArrays(
            frames=frames,
            controls=controls,
            poses=None,
            rewards=np.ones(length, np.float32),
            terminated=is_last,
            truncated=np.zeros(length, bool),
            seed=seed,
            labels={"square": masks},
        )

    def open_loop_controls(self, seed: int, frames: int) -> np.ndarray:
        keys = np.zeros((frames, self.spec.control_space.size), np.float32)
        keys[:, 0] = np.random.default_rng([seed, 1]).random(frames) < 0.5
        return keys

    def close(self) -> None:
        pass
