"""Sampling of what a recurrent generator's mean does not tell, by its joint flow head.

Shapes: B batch, T frames, N tokens, C latent channels, D features, A agent features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.protocol import Generator, LatentForm
from worldsim.model.recurrent import RecurrentGenerator
from worldsim.registry import register
from worldsim.sampling.flow import DENOISING_STEPS, denoise
from worldsim.sampling.protocol import LatentClip, SamplerLoss


@register("sampler", "remainder-flow")
@dataclass(frozen=True, kw_only=True, slots=True)
class RemainderFlowConfig:
    """Shortcut flow over the remainder of a recurrent generator."""

    past_noise: float = 0.15
    """Largest deviation, in units of the latents', of the noise on the past of every second window."""

    def build(self, latent: LatentForm, generator: Generator) -> RemainderFlowSampler:
        """The sampler; it needs a recurrent generator."""
        if not isinstance(generator, RecurrentGenerator):
            rule = "a remainder-flow sampler needs a recurrent generator"
            raise ConfigError(rule, type(generator).__name__, "choose the sampler flow")
        return RemainderFlowSampler(self)


class RemainderFlowSampler:
    """Denoises the remainder in K passes; learns mean and remainder together."""

    allowed_steps = DENOISING_STEPS
    default_steps = 2

    def __init__(self, config: RemainderFlowConfig) -> None:
        self.config = config

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        sample = denoise(lambda x, index: generator.denoise(prepared, x, index), noise, denoising_steps)
        return generator.finish(prepared, sample)

    def loss(self, generator: Generator, clip: LatentClip, rng: np.random.Generator) -> SamplerLoss:
        """The first frame of the clip is given; its agent feature is zero.

        Noise comes from torch's default generator, seeded by ``rng``: on a GPU it is drawn there.
        """
        assert isinstance(generator, RecurrentGenerator), "checked when the sampler was built"
        torch.manual_seed(int(rng.integers(2**62)))
        past = clip.latents[:, :-1]
        if not clip.is_past_clean:
            past = self._shaken(past)
        features, _ = generator.clip(past, clip.condition[:, 1:])
        change = clip.latents[:, 1:] - past
        weight = clip.weight
        weight = torch.ones_like(change[..., 0, 0]) if weight is None else weight[:, 1:]
        loss, logs = generator.loss(features.flatten(0, 1), change.flatten(0, 1), weight.flatten())
        agent = F.pad(generator.agent(features), (0, 0, 1, 0))
        return SamplerLoss(loss, agent, dict(logs))

    def _shaken(self, past: Tensor) -> Tensor:
        """``past`` [B, T, N, C] with noise in every second window, of a deviation of its own in each."""
        batch, device = len(past), past.device
        scale = torch.rand(batch, device=device) * self.config.past_noise
        scale = scale * (torch.rand(batch, device=device) < 0.5)
        return past + scale.view(-1, 1, 1, 1) * torch.randn_like(past)
