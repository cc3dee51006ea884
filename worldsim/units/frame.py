"""The unit of one whole frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldsim.errors import ConfigError
from worldsim.registry import register
from worldsim.units.protocol import TokenForm, only_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameUnit:
    """One frame: all its tokens at once, each seeing all others."""

    tokens: int
    """Tokens per frame, N >= 1."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the tokens, row-major; None: all in one row."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError("a frame must have at least one token", self.tokens)
        if self.grid is not None and self.grid[0] * self.grid[1] != self.tokens:
            raise ConfigError(f"the grid must hold {self.tokens} tokens", self.grid)

    @property
    def frames(self) -> int:
        return 1

    def order(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(self.tokens)),)

    def positions(self) -> np.ndarray:
        _, columns = self.grid or (1, self.tokens)
        index = np.arange(self.tokens)
        return np.stack([np.zeros_like(index), index // columns, index % columns], axis=-1)

    def mask(self) -> np.ndarray:
        return np.ones((self.tokens, self.tokens), dtype=bool)


@register("unit", "frame")
@dataclass(frozen=True, kw_only=True, slots=True)
class FrameUnitConfig:
    """Config of ``FrameUnit``: one frame a step."""

    def build(self, latent: TokenForm) -> FrameUnit:
        """The unit of frames with tokens of one scale."""
        grid = only_grid(latent)
        return FrameUnit(tokens=grid[0] * grid[1], grid=grid)
