"""Objective of the bitwise tokenizer: reconstruction, commitment and entropy, on its own past ([VideoAR]).

The order matters. At first every frame is decoded alone, until the bits carry the picture: with previous
frames from the start they never do. Then the decoder gets the frame before, which after the first is its own
work, in stretches that grow. At last some bits are flipped, so that the decoder leans on the past where bits
are wrong.

Shapes: B stretches, T latents, F frames of a latent, N tokens, C bits of a token, H x W frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.tokenizer.protocol import QuantisesScales
from worldsim.tokenizer.pyramid import Quantised
from worldsim.training.adversarial import AdversarialLoss
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs
from worldsim.training.vae_objective import Rarity, changed_pixels

_RAMP = 0.1
"""Share of the stage in which adversarial and perceptual losses come to their weights."""
_PAST_NOISE = 0.04
"""Deviation of the noise on a given previous frame, of pixels in [-1, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsLoss:
    """Weights of the loss, and the order of what is learnt."""

    changed: float = 5.0
    """Added weight of pixels that changed since the frame before."""
    rare: float = 25.0
    """Added weight of rare pixels."""
    rare_fraction: float = 0.01
    """Share of all pixels that count as rare."""
    commitment: float = 0.002
    entropy: float = 0.002
    steady: float = 0.0
    """Weight of bits that change where the picture does not: the generator must predict them."""
    alone: float = 0.35
    """Share of the stage in which frames are decoded alone."""
    lengths: tuple[int, int] = (3, 5)
    """Latents of a stretch on the tokenizer's own past: at first, and in the last third of the stage."""
    flips: float = 0.3
    """Largest share of flipped bits of a frame, in the last third of the stage."""
    flipped: float = 0.7
    """Share of stretches with flips."""


class BitsObjective:
    """The objective of the tokenizer's stage; see the module's docstring.

    Args:
        tokenizer: to be trained.
        sequences: its frames.
        batch: frames of a step.
        weights: of the loss.
        warm: the tokenizer is trained already: no frame is decoded alone.
        adversary: further losses, once frames are decoded on the frame before.
    """

    def __init__(
        self,
        tokenizer: QuantisesScales,
        sequences: Sequences,
        batch: int,
        weights: BitsLoss,
        warm: bool = False,
        adversary: AdversarialLoss | None = None,
    ) -> None:
        self._tokenizer, self._sequences, self._batch, self._weights = tokenizer, sequences, batch, weights
        self._warm, self._adversary = warm, adversary
        self._rarity: Rarity | None = None

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        torch.manual_seed(int(rng.integers(2**62)))
        weights, late = self._weights, progress > 2 / 3
        each = self._tokenizer.latent_spec.frames
        if progress < weights.alone and not self._warm:
            past, frames = self._stretches(max(2, self._batch // each), each, rng)
            return self._loss(frames, past, None, flips=0.0)[:2]
        length = weights.lengths[int(late)] * each
        past, frames = self._stretches(max(2, self._batch // length), length, rng)
        noise = _PAST_NOISE * torch.randn_like(past) * (torch.rand(len(past), 1, 1, 1) < 0.5).to(past)
        loss, logs, made = self._loss(frames, past, past + noise, weights.flips if late else 0.0)
        if self._adversary is None:
            return loss, logs
        before = torch.cat([past[:, None], frames[:, :-1]], 1)
        begun = 0.0 if self._warm else weights.alone
        share = min(1.0, (progress - begun) / _RAMP)
        more, told = self._adversary(made, frames.flatten(0, 1), before.flatten(0, 1), share)
        return loss + more, {**logs, **told}

    def _stretches(self, count: int, length: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Frames [B, 3, H, W], and the ``length`` frames after each [B, T F, 3, H, W]."""
        sequences = self._sequences
        if length == 1:
            now, before = sequences.pairs(count, rng)
            return sequences.pixels(before), sequences.pixels(now)[:, None]
        windows = sequences.draw(count, length + 1, rng)
        frames = sequences.pixels(sequences.frame[windows.arrivals])
        return frames[:, 0], frames[:, 1:]

    def _loss(
        self, frames: Tensor, before: Tensor, previous: Tensor | None, flips: float
    ) -> tuple[Tensor, Logs, Tensor]:
        """Loss of ``frames`` [B, T F, 3, H, W] that follow ``before``, and the decoded frames [B T F, ...].

        They are decoded one on top of the other, the first on ``previous``; None: each on nothing.
        """
        each, weights, batch = self._tokenizer.latent_spec.frames, self._weights, len(frames)
        clips = frames.unflatten(1, (-1, each)).flatten(0, 1)
        planes = self._tokenizer.planes(clips if each > 1 else clips[:, 0])
        quantised = self._tokenizer.quantise(planes, self._flips(planes, len(clips) // batch, flips))
        features = quantised.features.unflatten(0, (batch, -1))
        fit, squared, decoded, alone = [], [], [], torch.zeros_like(before)
        for t in range(frames.shape[1]):
            on = alone if previous is None else previous
            made = self._tokenizer.reconstruct(features[:, t // each], on, t % each)
            true, last = frames[:, t], frames[:, t - 1] if t else before
            error = (made - true) / 2  # of pixels in [0, 1]
            weight = self._pixel_weight(true, last)
            weighted = weight * (10 * error.square() + 0.5 * error.abs())
            fit.append(weighted.sum() / (3 * weight.sum()))
            squared.append(error.detach().square().mean())
            decoded.append(made)
            previous = None if previous is None else made.clamp(-1, 1)
        loss = torch.stack(fit).mean()
        loss = loss + weights.commitment * quantised.commitment + weights.entropy * quantised.entropy
        if weights.steady > 0 and len(clips) > batch:
            loss = loss + weights.steady * _restlessness(quantised, batch)
        psnr = -10 * torch.stack(squared).mean().log10()
        logs: Logs = {"psnr": psnr, "commitment": quantised.commitment.detach()}
        return loss, logs, torch.stack(decoded, 1).flatten(0, 1)

    def _flips(self, planes: Tensor, length: int, most: float) -> Tensor | None:
        """Bits that are flipped, bool [R, N, C]; each stretch has its own share."""
        if most == 0:
            return None
        spec, stretches = self._tokenizer.latent_spec, len(planes) // length
        share = torch.rand(stretches, 1, 1, device=planes.device) * most
        share = share * (torch.rand_like(share) < self._weights.flipped)
        return torch.rand(len(planes), *spec.shape, device=planes.device) < share.repeat_interleave(length, 0)

    def _pixel_weight(self, frames: Tensor, before: Tensor) -> Tensor:
        """Weight of each pixel's error [B, 1, H, W]."""
        if self._rarity is None:
            self._rarity = Rarity(self._sequences, self._weights.rare_fraction)
        changed = self._weights.changed * changed_pixels(frames, before)
        return 1 + changed + self._weights.rare * self._rarity(frames)


def _restlessness(quantised: Quantised, batch: int) -> Tensor:
    """Mean squared difference of the bits of consecutive frames, of stretches of ``batch`` rows."""
    bits = quantised.bits.unflatten(0, (batch, -1))
    return (bits[:, 1:] - bits[:, :-1].detach()).square().mean() / 4
