"""The generator's protocol: the network that carries time.

Shapes: B batch, N tokens, C latent channels, V prior channels, M condition, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worldsim.units import TokenForm, Unit

__all__ = ["Generator", "GeneratorConfig", "LatentForm"]


class LatentForm(TokenForm, Protocol):
    """Form of the latents, as a generator reads it from a tokenizer's ``LatentSpec``."""

    @property
    def kind(self) -> str:
        """ "continuous" or "bits"."""

    @property
    def channels(self) -> int:
        """Channels per token, C."""

    @property
    def bounded(self) -> bool:
        """Latents lie in [-1, 1]."""


class Generator(Protocol):
    """Predicts a unit's latent, given the units before, the prior and the condition.

    One unit is ``prepare``, as many ``denoise`` as the sampler asks for, ``finish`` and ``commit``.
    """

    @property
    def width(self) -> int:
        """Length of the agent feature, D."""

    @property
    def context(self) -> int:
        """Units of past that it was trained with."""

    @property
    def min_context(self) -> int:
        """Units of past that a state must hold at least."""

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support all of its inference, in float32 on a CPU."""

    def prepare_inference(self, dtype: torch.dtype) -> None:
        """Cast to ``dtype`` for inference, and let kernels do what they can on a CPU; weights must stay."""

    def initial_state(self, batch: int, context: int | None = None) -> Any:
        """A ``GeneratorState`` of ``batch`` rows without a past, which holds ``context`` units."""

    def prepare(self, state: Any, prior_tokens: Tensor, condition: Tensor, denoising_steps: int) -> Any:
        """All that the passes over one unit share; ``prior_tokens`` [B, N, V], ``condition`` [B, M]."""

    def denoise(self, prepared: Any, noisy: Tensor, index: int) -> Tensor:
        """The clean latent [B, N, C] that pass ``index`` predicts from a ``noisy`` one."""

    def finish(self, prepared: Any, sample: Tensor) -> Tensor:
        """A sample [B, N, C] as a latent: clamped where latents are bounded."""

    def commit(self, state: Any, prepared: Any, latent: Tensor, needs_agent: bool) -> Tensor | None:
        """Take a unit's latent [B, N, C] for what happened: writes ``state`` in place.

        Returns the agent feature [B, D]; None is allowed unless ``needs_agent``.
        """

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights: a generator is a module."""


class GeneratorConfig(Protocol):
    """The config of a generator."""

    def build(self, unit: Unit, latent: LatentForm, prior_channels: int, condition_size: int) -> Generator:
        """The generator of a unit and its latents, with fresh weights.

        Raises:
            ConfigError: they do not fit it.
        """
