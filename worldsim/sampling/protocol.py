"""The sampler's protocol: how a unit's latent is drawn from a generator, and how that is learnt.

Shapes: B batch, T frames, N tokens, C latent channels, V prior channels, M condition, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.protocol import Generator, LatentForm

__all__ = [
    "Chances",
    "KnowsChances",
    "LatentClip",
    "Sampler",
    "SamplerConfig",
    "SamplerLoss",
    "check_denoising_steps",
    "whole_steps_near",
]


@dataclass(frozen=True, slots=True)
class LatentClip:
    """Recorded windows, as the tokenizer sees them."""

    latents: Tensor
    """[B, T, N, C], without gradient."""
    prior_tokens: Tensor
    """[B, T, N, V], without gradient."""
    condition: Tensor
    """[B, T, M]."""
    is_past_clean: bool = False
    """Only the last frame is asked for; all before it are given as they are."""
    weight: Tensor | None = None
    """Weight of each frame, float32 [B, T]; None: all equal."""
    own_past: float = 0.0
    """Share of windows, in [0, 1], whose past holds the generator's own samples (scheduled sampling)."""
    shown: Tensor | None = None
    """Latents that units of context are seen as [B, T, N, C], such as the generator's own; None: as they
    are."""
    requantise: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    """Bits with some of them flipped, given as bool [B, T, N, C]: as they are then seen, and the answers of a
    multi-scale tokenizer to what is left. None: later scales do not answer to flips."""


@dataclass(frozen=True, slots=True)
class SamplerLoss:
    """The loss of one clip."""

    loss: Tensor
    agent: Tensor
    """The agent feature of each frame [B, T, D], for the heads."""
    logs: dict[str, float | Tensor]


class Sampler(Protocol):
    """Draws latents from a generator; owns the loss by which the generator learns them."""

    @property
    def allowed_steps(self) -> tuple[int, ...]:
        """Numbers of denoising steps that it takes, rising."""

    @property
    def default_steps(self) -> int:
        """One of them."""

    @property
    def whole_steps(self) -> tuple[int, ...]:
        """Those that draw all of a frame, rising; the default is one. Fewer may leave details undrawn."""

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        """A finished latent [B, N, C] from standard normals ``noise`` [B, N, C], or scaled ones."""

    def loss(self, generator: Generator, clip: LatentClip, rng: np.random.Generator) -> SamplerLoss:
        """The loss of recorded windows."""


@dataclass(frozen=True, slots=True)
class Chances:
    """Chances of a latent under the generator."""

    surprise: Tensor
    """Minus the binary logarithm of the probability of its bits, float32 [B]."""
    doubt: Tensor
    """Mean entropy of its bits, float32 [B] in [0, 1]: 0 if all are certain, 1 if all are even chances."""


@runtime_checkable
class KnowsChances(Protocol):
    """A sampler that knows the probability of every latent."""

    def chances(self, generator: Generator, prepared: Any, latent: Tensor) -> Chances:
        """Chances of a latent [B, N, C] that was drawn from ``prepared``, or is given; before its commit."""


class SamplerConfig(Protocol):
    """The config of a sampler."""

    def build(self, latent: LatentForm, generator: Generator) -> Sampler:
        """The sampler of such latents.

        Raises:
            ConfigError: it does not draw latents of this kind, or not from this generator.
        """


def check_denoising_steps(sampler: Sampler, denoising_steps: int | None) -> int:
    """Return ``denoising_steps``; None: the sampler's default.

    Raises:
        ConfigError: the sampler does not take as many.
    """
    allowed = sampler.allowed_steps
    if denoising_steps is None:
        return sampler.default_steps
    if denoising_steps not in allowed:
        rule = f"the denoising steps K must be one of {allowed}"
        raise ConfigError(rule, denoising_steps, f"choose denoising_steps={sampler.default_steps}")
    return denoising_steps


def whole_steps_near(sampler: Sampler, denoising_steps: int) -> int:
    """``denoising_steps`` if that many draw all of a frame, else the sampler's default.

    For measurements that ask for few passes to be fast, and would measure half a frame otherwise.
    """
    return denoising_steps if denoising_steps in sampler.whole_steps else sampler.default_steps
