"""Clips of latents, frame by frame, and the same as units of any length.

Shapes: B clips, T frames, n tokens of a frame, C latent channels, Q condition of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.networks import TWIST, Networks
from worldsim.sampling.protocol import LatentClip
from worldsim.tokenizer.protocol import NormalisesLatents
from worldsim.training.sequences import Sequences, Windows
from worldsim.training.world_model_objective import group_by_unit

_MEASURED, _ENCODED = 2000, 256
"""Frames that latents are normalised by, and frames that are encoded at once."""


@dataclass(frozen=True, slots=True)
class FrameClip:
    """Clips as the tokenizer sees them."""

    latents: Tensor
    """[B, T, n, C], normalised."""
    condition: Tensor
    """Condition that leads into each frame [B, T, Q]."""
    weight: Tensor
    """1 where a frame exists, else 0 [B, T]."""
    windows: Windows

    def grouped(self, frames: int, prior_channels: int, tokens: Callable[[Tensor], Tensor]) -> LatentClip:
        """The clips as units of ``frames`` frames; ``tokens`` makes a unit's tokens of its frames' latents.

        A unit weighs nothing where one of its frames does not exist.
        """
        latents = tokens(group_by_unit(self.latents, frames))
        return LatentClip(
            latents=latents,
            prior_tokens=latents.new_zeros(*latents.shape[:3], prior_channels),
            condition=group_by_unit(self.condition, frames),
            weight=self.weight.unflatten(1, (-1, frames)).amin(2),
        )


class FrameLatents:
    """Normalised latents of frames that are encoded when they are asked for, which a short training does
    sooner than all frames of a split."""

    def __init__(self, tokenizer: NormalisesLatents, sequences: Sequences, draws: bool) -> None:
        self.tokenizer, self._sequences, self._draws = tokenizer, sequences, draws

    def normalise(self) -> None:
        """Set the tokenizer's statistics by frames that are spread over the split."""
        count = len(self._sequences.frames)
        some = torch.arange(0, count, max(1, count // _MEASURED), device=self._sequences.frame.device)
        mean, deviation = self._posterior(some)
        self.tokenizer.normalise_by(mean.mean(0), (mean.var(0) + deviation.square().mean(0)).sqrt())

    def sample(self, frame: Tensor) -> Tensor:
        """Normalised latents, float32 [..., n, C], for frames of the numbers ``frame`` [...].

        They are drawn from the posterior, or its means.
        """
        mean, deviation = self._posterior(frame.flatten())
        raw = mean + deviation * torch.randn_like(mean) if self._draws else mean
        return ((raw - self.tokenizer.mean) / self.tokenizer.std).view(*frame.shape, *mean.shape[1:])

    @torch.no_grad()
    def _posterior(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the raw latents [N, n, C] of frames [N]."""
        means, deviations = [], []
        for some in frame.split(_ENCODED):
            mean, log_variance = self.tokenizer.posterior(self._sequences.pixels(some))
            means.append(mean)
            deviations.append((log_variance / 2).exp())
        return torch.cat(means), torch.cat(deviations)


class UnitClips:
    """Draws clips of ``length`` frames from a split.

    Args:
        networks: a world's, of a tokenizer that normalises its latents and needs no prior.
        sequences: the split.
        latents: of its frames.
        batch: clips in a draw, B.
        length: frames of a clip, T.
        ends: share of clips around an episode's end.
    """

    def __init__(
        self,
        networks: Networks,
        sequences: Sequences,
        latents: FrameLatents,
        batch: int,
        length: int,
        ends: float = 0.0,
    ) -> None:
        self.networks, self.sequences, self.latents = networks, sequences, latents
        self.batch, self.length, self.ends = batch, length, ends

    def draw(self, rng: np.random.Generator, ends: float | None = None) -> FrameClip:
        """Clips of recorded frames; ``ends`` overrides the share around an end."""
        torch.manual_seed(int(rng.integers(2**62)))
        share = self.ends if ends is None else ends
        windows = self.sequences.draw(self.batch, self.length, rng, ends=share)
        latents = self.latents.sample(self.sequences.frame[windows.arrivals])
        exists = windows.valid & ~self.sequences.ends[windows.arrivals]  # an end has no frame of its own
        return FrameClip(latents, self.condition(windows, rng), exists.float(), windows)

    def condition(self, windows: Windows, rng: np.random.Generator) -> Tensor:
        """Conditions that lead into each frame [B, T, Q]; channels are withheld from some clips."""
        vector = self.networks.conditions.withhold(self.sequences.controls[windows.arrivals], rng)
        return self.networks.condition(vector, vector.new_zeros(*vector.shape[:2], TWIST))
