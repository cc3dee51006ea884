"""The unit of one frame in scales of continuous latents, resized coarse to fine ([Units], section 3.2).

The last scale is the latent itself; the coarser ones are averages of it and are stored nowhere. Bits have
scales of their own, see ``next_scale``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldsim.errors import ConfigError
from worldsim.registry import register
from worldsim.units.next_scale import NextScaleUnit
from worldsim.units.protocol import TokenForm, only_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalesUnit:
    """One frame in L scales, each of half the rows and columns of the next one, rounded up."""

    grid: tuple[int, int]
    """Rows and columns of the finest scale, the latent's."""
    levels: int
    """Scales, L: each has fewer tokens than the next."""

    def __post_init__(self) -> None:
        if min(self.levels, *self.grid) < 1:
            raise ConfigError("scales must have at least one level, row and column", (self.levels, self.grid))
        most = max(self.grid).bit_length() + 1 - (max(self.grid) & (max(self.grid) - 1) == 0)
        if self.levels > most:
            rule = f"a grid of {self.grid[0]} x {self.grid[1]} tokens must have at most {most} scales"
            raise ConfigError(rule, self.levels, f"choose 1 to {most}")

    @property
    def scales(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of every scale, coarse to fine."""
        factors = (2**level for level in reversed(range(self.levels)))
        return tuple((-(-self.grid[0] // factor), -(-self.grid[1] // factor)) for factor in factors)

    @property
    def tokens(self) -> int:
        return self._layout.tokens

    @property
    def frames(self) -> int:
        return 1

    def order(self) -> tuple[tuple[int, ...], ...]:
        return self._layout.order()

    def positions(self) -> np.ndarray:
        return self._layout.positions()

    def mask(self) -> np.ndarray:
        return self._layout.mask()

    def pyramid(self) -> np.ndarray:
        parts = []
        for rows, columns in self.scales:
            parts.append(np.kron(_shares(rows, self.grid[0]), _shares(columns, self.grid[1])))
        return np.concatenate(parts).astype(np.float32)

    def latent_tokens(self) -> np.ndarray:
        return np.arange(self.tokens - self.grid[0] * self.grid[1], self.tokens)

    @property
    def _layout(self) -> NextScaleUnit:
        return NextScaleUnit(scales=self.scales)


def _shares(parts: int, size: int) -> np.ndarray:
    """Share of each of ``size`` cells in each of ``parts`` equal lengths of them [parts, size]."""
    edges = np.arange(parts + 1) * size / parts
    cell = np.arange(size)
    overlap = np.minimum(edges[1:, None], cell + 1) - np.maximum(edges[:-1, None], cell)
    return np.clip(overlap, 0, None) * parts / size


@register("unit", "scales")
@dataclass(frozen=True, kw_only=True, slots=True)
class ScalesUnitConfig:
    """Config of ``ScalesUnit``: one frame a step, in one pass per scale."""

    levels: int = 3
    """Scales, L."""

    @property
    def sizes(self) -> str:
        """Levels, e.g. "3"."""
        return str(self.levels)

    def with_sizes(self, text: str) -> ScalesUnitConfig:
        """The config of other levels."""
        return ScalesUnitConfig(levels=int(text))

    def build(self, latent: TokenForm) -> ScalesUnit:
        """The unit of frames with tokens of one scale.

        Raises:
            ConfigError: the grid has fewer scales.
        """
        return ScalesUnit(grid=only_grid(latent), levels=self.levels)
