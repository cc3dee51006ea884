"""The tokens that are predicted in one autoregressive step, as pure data: no tensors, no modules.

A unit's config is a registered part; ``build`` makes the unit for the form of a tokenizer's latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worldsim.errors import ConfigError
from worldsim.registry import register

__all__ = [
    "CubeUnit",
    "CubeUnitConfig",
    "FrameUnit",
    "FrameUnitConfig",
    "NextScaleUnit",
    "NextScaleUnitConfig",
    "TokenForm",
    "Unit",
    "UnitConfig",
]


class TokenForm(Protocol):
    """Tokens of a frame, as a unit reads them from a tokenizer's ``LatentSpec``."""

    @property
    def tokens(self) -> int:
        """Tokens per frame, N."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the finest scale."""

    @property
    def scales(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of every scale, coarse to fine: the tokens' order; N is the sum of their areas."""


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

    def build(self, latent: TokenForm) -> Unit:
        """The unit of a tokenizer whose frames have such tokens.

        Raises:
            ConfigError: they do not fit.
        """


def _only_grid(latent: TokenForm) -> tuple[int, int]:
    """The grid of latents of a single scale.

    Raises:
        ConfigError: there are several scales.
    """
    if len(latent.scales) != 1:
        rule = "the unit must be next-scale where latents have several scales"
        raise ConfigError(rule, latent.scales, "choose the unit next-scale")
    return latent.grid


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
        grid = _only_grid(latent)
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

    def build(self, latent: TokenForm) -> CubeUnit:
        """The unit of frames with tokens of one scale."""
        grid = _only_grid(latent)
        return CubeUnit(frames=self.kt, grid=grid, block=(self.kh or grid[0], self.kw or grid[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class NextScaleUnit:
    """One frame, scale after scale, coarse to fine (next-scale prediction: VAR, Tian et al. 2024; seed 001).

    Tokens are scale-major, then row-major. A token sees those of its own scale and of coarser ones.
    """

    scales: tuple[tuple[int, int], ...]
    """Rows and columns of every scale; no scale is coarser than the one before it."""

    def __post_init__(self) -> None:
        if not self.scales or min(min(scale) for scale in self.scales) < 1:
            raise ConfigError("a frame must have at least one scale, each of at least one token", self.scales)
        pairs = zip(self.scales, self.scales[1:], strict=False)
        if any(after[axis] < before[axis] for before, after in pairs for axis in (0, 1)):
            raise ConfigError("scales must go from coarse to fine", self.scales, "sort them by their size")

    @property
    def tokens(self) -> int:
        return sum(rows * columns for rows, columns in self.scales)

    @property
    def frames(self) -> int:
        return 1

    def order(self) -> tuple[tuple[int, ...], ...]:
        passes, first = [], 0
        for rows, columns in self.scales:
            passes.append(tuple(range(first, first + rows * columns)))
            first += rows * columns
        return tuple(passes)

    def positions(self) -> np.ndarray:
        """``int64 [N, 3]``: frame 0, and the row and column of the finest grid at the token's centre."""
        finest, parts = self.scales[-1], []
        for scale in self.scales:
            axes = [
                (2 * np.arange(size) + 1) * whole // (2 * size)
                for size, whole in zip(scale, finest, strict=True)
            ]
            parts.append(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))
        return np.pad(np.concatenate(parts), ((0, 0), (1, 0)))

    def mask(self) -> np.ndarray:
        areas = [rows * columns for rows, columns in self.scales]
        scale = np.repeat(np.arange(len(areas)), areas)
        causal: np.ndarray = scale[:, None] >= scale
        return causal


@register("unit", "next-scale")
@dataclass(frozen=True, kw_only=True, slots=True)
class NextScaleUnitConfig:
    """Config of ``NextScaleUnit``: one frame a step, in one pass per scale of the latents."""

    def build(self, latent: TokenForm) -> NextScaleUnit:
        """The unit of frames with tokens of such scales.

        Raises:
            ConfigError: there is only one.
        """
        if len(latent.scales) < 2:
            rule = "a next-scale unit needs latents of several scales"
            raise ConfigError(rule, latent.scales, "choose the unit frame, or the tokenizer bits")
        return NextScaleUnit(scales=latent.scales)
