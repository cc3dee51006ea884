"""The tokens that are predicted in one autoregressive step, as pure data: no tensors, no modules.

A unit's config is a registered part; ``build`` makes the unit for a tokenizer's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worldsim.errors import ConfigError
from worldsim.registry import register

__all__ = ["CubeUnit", "CubeUnitConfig", "FrameUnit", "FrameUnitConfig", "Unit", "UnitConfig"]


class Unit(Protocol):
    """The tokens of one autoregressive step. The generator knows units only through this."""

    @property
    def tokens(self) -> int:
        """Number of tokens of the unit, N."""

    @property
    def frames(self) -> int:
        """Number of frames of the unit."""

    def order(self) -> tuple[tuple[int, ...], ...]:
        """The passes of one step, first to last: the token indices that each of them predicts together."""

    def positions(self) -> np.ndarray:
        """``int64 [N, 3]``: each token's frame within the unit, row and column."""

    def mask(self) -> np.ndarray:
        """``bool [N, N]``: True where the row's token may look at the column's token of the same unit."""


class UnitConfig(Protocol):
    """The config of a unit."""

    def build(self, grid: tuple[int, int]) -> Unit:
        """The unit of a tokenizer whose frames have ``grid`` tokens, rows x columns.

        Raises:
            ConfigError: the grid does not fit.
        """


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

    def build(self, grid: tuple[int, int]) -> FrameUnit:
        """The unit of frames with ``grid`` tokens."""
        return FrameUnit(tokens=grid[0] * grid[1], grid=grid)


@dataclass(frozen=True, kw_only=True, slots=True)
class CubeUnit:
    """Several consecutive frames, predicted together; tokens are frame-major, then row-major.

    A token sees the tokens of its own block of ``block`` rows x columns in all frames of the unit.
    """

    frames: int
    """Frames of the unit, at least 1."""
    grid: tuple[int, int]
    """Rows and columns of a frame's tokens."""
    block: tuple[int, int]
    """Rows and columns of a block; the grid is made of whole blocks."""

    def __post_init__(self) -> None:
        (rows, columns), (high, wide) = self.grid, self.block
        if min(self.frames, rows, columns, high, wide) < 1 or rows % high or columns % wide:
            rule = "a cube needs at least a frame, and a grid of whole blocks"
            raise ConfigError(rule, (self.frames, self.grid, self.block), "choose kh and kw that divide it")

    @property
    def tokens(self) -> int:
        return self.frames * self.grid[0] * self.grid[1]

    def order(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(self.tokens)),)

    def positions(self) -> np.ndarray:
        axes = [np.arange(size) for size in (self.frames, *self.grid)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    def mask(self) -> np.ndarray:
        block = self.positions()[:, 1:] // np.array(self.block)
        same: np.ndarray = (block[:, None] == block[None]).all(-1)
        return same


@register("unit", "cube")
@dataclass(frozen=True, kw_only=True, slots=True)
class CubeUnitConfig:
    """Config of ``CubeUnit``: ``kt`` frames a step; tokens attend within blocks of ``kh`` x ``kw``."""

    kt: int = 2
    kh: int | None = None
    """Rows of a block; None: all."""
    kw: int | None = None
    """Columns of a block; None: all."""

    def build(self, grid: tuple[int, int]) -> CubeUnit:
        """The unit of frames with ``grid`` tokens."""
        return CubeUnit(frames=self.kt, grid=grid, block=(self.kh or grid[0], self.kw or grid[1]))
