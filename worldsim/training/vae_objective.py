"""Objective of the tokenizer stage: a frame VAE with weighted reconstruction and KL divergence.

Most pixels of a game are static, and what matters is small. Errors are weighted by what changed since the
frame before and by what is rare: pixels far from the split's mean frame. The weights multiply the squared
error, so that no pixel is ever free to be wrong.

Shapes: B frames, N tokens, C latent channels, H x W frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.tokenizer.protocol import NormalisesLatents
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs

CHANGED = 12 / 127.5
"""Difference in [-1, 1] above which a pixel counts as changed: 12 grey levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeLoss:
    """Weights of the loss."""

    noise: float = 0.03
    """Standard deviation of a pixel in [0, 1] in the fit; smaller is sharper and costs more nats."""
    changed: float = 5.0
    """Added weight of pixels that changed."""
    rare: float = 25.0
    """Added weight of rare pixels."""
    rare_fraction: float = 0.01
    """Share of all pixels that count as rare."""


class Rarity:
    """Marks pixels that are far from the mean frame."""

    def __init__(self, sequences: Sequences, share: float) -> None:
        count = len(sequences.frames)
        some = torch.arange(0, count, max(1, count // 2000), device=sequences.frame.device)
        frames = sequences.pixels(some)
        self.mean = frames.mean(0)
        distance = (frames - self.mean).abs().amax(1).flatten()
        step = max(1, len(distance) // 10**6)
        self.threshold = float(torch.quantile(distance[::step], 1 - share))

    def __call__(self, frames: Tensor) -> Tensor:
        """1 where a pixel of ``frames`` [B, 3, H, W] is rare, else 0: float32 [B, 1, H, W]."""
        return ((frames - self.mean).abs().amax(1, keepdim=True) > self.threshold).float()


def changed_pixels(now: Tensor, before: Tensor) -> Tensor:
    """1 where a pixel changed by more than 12 grey levels in any colour: float32 [B, 1, H, W]."""
    return ((now - before).abs().amax(1, keepdim=True) > CHANGED).float()


class VaeObjective:
    """The objective of the tokenizer's stage; see the module's docstring.

    Args:
        tokenizer: what learns.
        sequences: the split.
        batch: frames of a step.
        weights: of the loss.
        keep_latents: the decoder alone learns.
    """

    def __init__(
        self,
        tokenizer: NormalisesLatents,
        sequences: Sequences,
        batch: int,
        weights: VaeLoss,
        keep_latents: bool = False,
    ) -> None:
        self._tokenizer, self._sequences, self._batch, self._weights = tokenizer, sequences, batch, weights
        self._keep_latents = keep_latents
        self._rarity: Rarity | None = None

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        if self._rarity is None:
            self._rarity = Rarity(self._sequences, self._weights.rare_fraction)
        torch.manual_seed(int(rng.integers(2**62)))
        now, before = self._sequences.pairs(self._batch, rng)
        frames, past = self._sequences.pixels(now), self._sequences.pixels(before)
        weight = 1 + self._weights.changed * changed_pixels(frames, past)
        weight = weight + self._weights.rare * self._rarity(frames)
        with torch.set_grad_enabled(not self._keep_latents):
            mean, log_variance = self._tokenizer.posterior(frames)
        raw = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        squared = ((self._tokenizer.reconstruct(raw) - frames) / 2).square()  # of pixels in [0, 1]
        fit = (weight * squared).flatten(1).sum(1) / (2 * self._weights.noise**2)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
        loss = (fit + divergence).mean() / frames[0].numel()
        psnr = -10 * squared.detach().mean().log10()
        return loss, {"psnr": psnr, "nats": divergence.detach().mean()}
