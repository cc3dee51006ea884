"""Sampling of bits: tokens are drawn a few at a time, each bit from its own probability.

The generator's output is the logits of the bits; its input is the bits that are known, and 0 for the others.
A pass draws the next share of the tokens, in an order that is random, too.

Shapes: B batch, T frames, N tokens, C bits of a token.
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
from worldsim.registry import register
from worldsim.sampling.flow import DENOISING_STEPS, FlowGenerator, parts_of
from worldsim.sampling.protocol import LatentClip, SamplerLoss


@register("sampler", "bernoulli")
@dataclass(frozen=True, kw_only=True, slots=True)
class BernoulliConfig:
    """Bits, each drawn by itself given those of earlier passes."""

    def build(self, latent: LatentForm, generator: Generator) -> BernoulliSampler:
        """The sampler; it needs bits, and a generator whose output can be logits."""
        if latent.kind != "bits":
            rule = "a bernoulli sampler needs a tokenizer of bits"
            raise ConfigError(rule, latent.kind, "choose the sampler flow")
        if len(latent.scales) > 1:
            rule = "a bernoulli sampler needs latents of one scale"
            raise ConfigError(rule, latent.scales, "choose the sampler next-scale")
        if parts_of(generator) > 1:
            rule = "a bernoulli sampler needs units that are drawn in one part"
            raise ConfigError(rule, f"{parts_of(generator)} parts", "choose the unit frame")
        if not isinstance(generator, FlowGenerator) or generator.prediction != "clean":
            rule = "a bernoulli sampler needs a generator that predicts clean latents"
            raise ConfigError(rule, type(generator).__name__, "choose the transformer")
        return BernoulliSampler()


class BernoulliSampler:
    """Draws tokens in K passes, and learns to fill in those that are masked."""

    allowed_steps = whole_steps = DENOISING_STEPS
    default_steps = 2

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        tokens = noise.shape[1]
        rank = noise[..., 0].argsort(dim=1, stable=True).argsort(dim=1)[..., None]
        uniform, bits = torch.special.ndtr(noise), torch.zeros_like(noise)
        for index in range(denoising_steps):
            chance = generator.denoise(prepared, bits, index).sigmoid()
            first, last = (tokens * (index + past) // denoising_steps for past in (0, 1))
            drawn = torch.where(uniform < chance, 1.0, -1.0)
            bits = torch.where((rank >= first) & (rank < last), drawn, bits)
        return generator.finish(prepared, bits)

    def loss(self, generator: Generator, clip: LatentClip, rng: np.random.Generator) -> SamplerLoss:
        assert isinstance(generator, FlowGenerator), "checked when the sampler was built"
        bits, (batch, frames, tokens) = clip.latents, clip.latents.shape[:3]

        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.asarray(array, np.float32)).to(bits)

        dt = put(rng.choice([1 / steps for steps in DENOISING_STEPS], (batch, frames)))
        t = torch.floor(put(rng.random((batch, frames))) / dt) * dt
        is_context = put(rng.random((batch, frames))) < 0.4
        if clip.is_past_clean:
            is_context = torch.arange(frames, device=bits.device).expand(batch, -1) < frames - 1
        t = torch.where(is_context, torch.ones_like(t), t)
        control_mask = torch.from_numpy(rng.random((batch, frames)) >= 0.1).to(bits.device)
        seen = put(rng.random((batch, frames, tokens, 1))) < t[..., None, None]
        out = generator(bits * seen, t, dt, clip.prior_tokens, clip.condition, control_mask=control_mask)
        wanted = (bits > 0).to(out.clean)
        error = F.binary_cross_entropy_with_logits(out.clean, wanted, reduction="none").mean(-1)
        weight = (~seen[..., 0]).to(error)
        loss = (error * weight).sum() / weight.sum().clamp(min=1)
        return SamplerLoss(loss, out.agent, {"bits": loss.item()})
