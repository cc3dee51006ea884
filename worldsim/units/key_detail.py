"""The unit of key and detail frames: sparse frames first, then those between them ([Units], section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldsim.errors import ConfigError
from worldsim.registry import register
from worldsim.units.protocol import TokenForm, block_causal, divisors, frame_major, only_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyDetailUnit:
    """T frames in k groups of T/k frames each, k frames apart; each group is one step.

    The key frames come first. They are the last of every k frames, so that each detail lies between frames
    that are known: the past and the keys. A token sees its own group and all earlier ones.
    """

    frames: int
    """Frames of the unit, T."""
    groups: int
    """Groups, k: they divide T."""
    grid: tuple[int, int]
    """Rows and columns of a frame's tokens."""

    def __post_init__(self) -> None:
        if min(self.frames, self.groups, *self.grid) < 1:
            rule = "key and detail frames must have at least one frame, group, row and column"
            raise ConfigError(rule, (self.frames, self.groups, self.grid))
        if self.frames % self.groups:
            fitting = ", ".join(map(str, divisors(self.frames)))
            rule = f"the groups of key and detail frames must divide {self.frames} frames"
            raise ConfigError(rule, self.groups, f"choose {fitting}")

    @property
    def tokens(self) -> int:
        return self.frames * self.grid[0] * self.grid[1]

    def order(self) -> tuple[tuple[int, ...], ...]:
        phase = self.positions()[:, 0] % self.groups
        phases = (self.groups - 1, *range(self.groups - 1))
        return tuple(tuple(np.flatnonzero(phase == group).tolist()) for group in phases)

    def positions(self) -> np.ndarray:
        return frame_major(self.frames, self.grid)

    def mask(self) -> np.ndarray:
        return block_causal(self.order())


@register("unit", "key-detail")
@dataclass(frozen=True, kw_only=True, slots=True)
class KeyDetailUnitConfig:
    """Config of ``KeyDetailUnit``: key frames, then the frames between them."""

    frames: int = 4
    """Frames of the unit, T."""
    groups: int = 2
    """Groups, k."""

    @property
    def sizes(self) -> str:
        """Frames and groups, e.g. "4/2"."""
        return f"{self.frames}/{self.groups}"

    def with_sizes(self, text: str) -> KeyDetailUnitConfig:
        """The config of other frames and groups, in the form of ``sizes``."""
        frames, groups = map(int, text.split("/"))
        return KeyDetailUnitConfig(frames=frames, groups=groups)

    def build(self, latent: TokenForm) -> KeyDetailUnit:
        """The unit of frames with tokens of one scale.

        Raises:
            ConfigError: the groups do not divide the frames.
        """
        return KeyDetailUnit(frames=self.frames, groups=self.groups, grid=only_grid(latent))
