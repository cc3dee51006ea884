"""The unit of spatio-temporal cubes: a few frames, cut in time, rows and columns ([Units], section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from worldsim.errors import ConfigError
from worldsim.registry import register
from worldsim.units.protocol import TokenForm, block_causal, divisors, frame_major, only_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class CubeUnit:
    """T frames of h x w tokens in a x b x c cubes of T/a x h/b x w/c tokens; each cube is one step.

    Cubes follow one another in time, then from top to bottom, then from left to right. A token sees its own
    cube and all earlier ones. Tokens are frame-major, then row-major.
    """

    frames: int
    """Frames of the unit, T, at least 1."""
    grid: tuple[int, int]
    """Rows and columns of a frame's tokens, h and w."""
    splits: tuple[int, int, int] = (1, 1, 1)
    """Cubes along time, rows and columns, a, b and c; they divide T, h and w."""

    def __post_init__(self) -> None:
        sizes = (self.frames, *self.grid)
        if min(sizes) < 1 or min(self.splits) < 1:
            raise ConfigError("a cube must have at least one frame, row and column", (sizes, self.splits))
        if any(size % split for size, split in zip(sizes, self.splits, strict=True)):
            rule = f"cubes must divide {self.frames} frames of {self.grid[0]} x {self.grid[1]} tokens"
            named = zip(("time", "rows", "columns"), sizes, strict=True)
            fitting = (f"{name} into {', '.join(map(str, divisors(size)))}" for name, size in named)
            raise ConfigError(rule, "x".join(map(str, self.splits)), f"split {'; '.join(fitting)}")

    @property
    def tokens(self) -> int:
        return self.frames * self.grid[0] * self.grid[1]

    def order(self) -> tuple[tuple[int, ...], ...]:
        sizes = np.array((self.frames, *self.grid)) // np.array(self.splits)
        cube = self.positions() // sizes
        cubes = product(*map(range, self.splits))
        return tuple(tuple(np.flatnonzero((cube == number).all(-1)).tolist()) for number in cubes)

    def positions(self) -> np.ndarray:
        return frame_major(self.frames, self.grid)

    def mask(self) -> np.ndarray:
        return block_causal(self.order())


@register("unit", "cube")
@dataclass(frozen=True, kw_only=True, slots=True)
class CubeUnitConfig:
    """Config of ``CubeUnit``. With one frame it is interactive: every control is answered at once."""

    frames: int = 2
    """Frames of the unit, T."""
    splits: tuple[int, int, int] = (1, 1, 1)
    """Cubes along time, rows and columns: (2, 2, 2) is T/2 x h/2 x w/2 in the paper's notation."""

    @property
    def sizes(self) -> str:
        """Frames and splits, e.g. "4/2x2x2"."""
        return f"{self.frames}/{'x'.join(map(str, self.splits))}"

    def with_sizes(self, text: str) -> CubeUnitConfig:
        """The config of other frames and splits, in the form of ``sizes``."""
        frames, splits = text.split("/")
        a, b, c = map(int, splits.split("x"))
        return CubeUnitConfig(frames=int(frames), splits=(a, b, c))

    def build(self, latent: TokenForm) -> CubeUnit:
        """The unit of frames with tokens of one scale.

        Raises:
            ConfigError: the cubes do not divide the frames or the grid; the message has the splits that do.
        """
        return CubeUnit(frames=self.frames, grid=only_grid(latent), splits=self.splits)
