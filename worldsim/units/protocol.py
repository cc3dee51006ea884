"""The protocol of units, as pure data: no tensors, no modules.

A unit's config is a registered part; ``build`` makes the unit for the form of a tokenizer's latents.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from worldsim.errors import ConfigError

__all__ = [
    "ResizedUnit",
    "SizedUnitConfig",
    "TokenForm",
    "Unit",
    "UnitConfig",
    "block_causal",
    "divisors",
    "frame_major",
    "only_grid",
]


class TokenForm(Protocol):
    """Tokens of a latent, as a unit reads them from a tokenizer's ``LatentSpec``."""

    @property
    def tokens(self) -> int:
        """Tokens per frame, N."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the finest scale."""

    @property
    def scales(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of every scale, coarse to fine: the tokens' order; N is the sum of their areas."""

    @property
    def frames(self) -> int:
        """Frames that these tokens hold, at least 1."""


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


@runtime_checkable
class ResizedUnit(Unit, Protocol):
    """A unit with tokens beside those of its frames' latents: averages of them, such as coarser scales."""

    def pyramid(self) -> np.ndarray:
        """``float32 [N, F n]``: weights of the frames' n latent tokens in each of the unit's tokens."""

    def latent_tokens(self) -> np.ndarray:
        """``int64 [F n]``: the unit's tokens that are the frames' latents themselves."""


class UnitConfig(Protocol):
    """The config of a unit."""

    def build(self, latent: TokenForm) -> Unit:
        """The unit of a tokenizer whose frames have such tokens.

        Raises:
            ConfigError: they do not fit.
        """


@runtime_checkable
class SizedUnitConfig(UnitConfig, Protocol):
    """The config of a unit whose sizes can be written as text, e.g. "4/2x2x2"."""

    @property
    def sizes(self) -> str:
        """The sizes as text."""

    def with_sizes(self, text: str) -> UnitConfig:
        """The config with other sizes.

        Raises:
            ValueError: the text is of another form.
        """


def only_grid(latent: TokenForm) -> tuple[int, int]:
    """The grid of latents of a single scale and a single frame.

    Raises:
        ConfigError: there are several scales, or frames.
    """
    if latent.frames != 1:
        rule = "the unit must be next-scale where a latent holds several frames"
        raise ConfigError(rule, latent.frames, "choose the unit next-scale")
    if len(latent.scales) != 1:
        rule = "the unit must be next-scale where latents have several scales"
        raise ConfigError(rule, latent.scales, "choose the unit next-scale")
    return latent.grid


def block_causal(order: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """``bool [N, N]``: every token sees those of its own pass and of earlier passes."""
    number = np.empty(sum(map(len, order)), dtype=np.int64)
    for index, tokens in enumerate(order):
        number[list(tokens)] = index
    causal: np.ndarray = number[:, None] >= number
    return causal


def frame_major(frames: int, grid: tuple[int, int]) -> np.ndarray:
    """``int64 [N, 3]``: frame, row and column of tokens that lie frame-major, then row-major."""
    axes = [np.arange(size) for size in (frames, *grid)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def divisors(number: int) -> list[int]:
    """The whole numbers that divide ``number``, rising."""
    return [part for part in range(1, number + 1) if number % part == 0]
