"""The unit of one latent in scales, coarse to fine: one frame, or the frames that a latent holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldsim.errors import ConfigError
from worldsim.registry import register
from worldsim.units.protocol import TokenForm


@dataclass(frozen=True, kw_only=True, slots=True)
class NextScaleUnit:
    """One latent, scale after scale, coarse to fine (next-scale prediction: VAR, Tian 2024; [VideoAR]).

    Tokens are scale-major, then row-major. A token sees those of its own scale and of coarser ones, and
    belongs to all frames of the latent.
    """

    scales: tuple[tuple[int, int], ...]
    """Rows and columns of every scale; no scale is coarser than the one before it."""
    frames: int = 1
    """Frames of the latent."""

    def __post_init__(self) -> None:
        if not self.scales or min(min(scale) for scale in self.scales) < 1:
            raise ConfigError(
                "a latent must have at least one scale, each of at least one token", self.scales
            )
        if self.frames < 1:
            raise ConfigError("a latent must hold at least one frame", self.frames)
        pairs = zip(self.scales, self.scales[1:], strict=False)
        if any(after[axis] < before[axis] for before, after in pairs for axis in (0, 1)):
            raise ConfigError("scales must go from coarse to fine", self.scales, "sort them by their size")

    @property
    def tokens(self) -> int:
        return sum(rows * columns for rows, columns in self.scales)

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
    """Config of ``NextScaleUnit``: one latent a step, in one pass per scale."""

    def build(self, latent: TokenForm) -> NextScaleUnit:
        """The unit of latents with tokens of such scales.

        Raises:
            ConfigError: there is only one.
        """
        if len(latent.scales) < 2:
            rule, remedy = "a next-scale unit needs latents of several scales", "choose the unit frame"
            remedy = "give the tokenizer several scales" if latent.frames > 1 else remedy
            raise ConfigError(rule, latent.scales, remedy)
        return NextScaleUnit(scales=latent.scales, frames=latent.frames)
