"""A joint flow head: samples what the mean does not tell of a latent, all its numbers together.

A factorised density, sampled number by number, scrambles a latent; a flow draws it as a whole. The head
predicts the clean sample from a noisy one (x-prediction) at any level and for steps of size 1, 1/2, 1/4 and
1/8: shortcut models (Frans et al. 2024) as in Dreamer 4's shortcut forcing.

Shapes: R rows, N tokens, C latent channels, D width of the generator's features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.model.flow import euler_step, interpolate
from worldsim.model.mixer import MixerBlock, Modulation

FINEST_STEPS = 8
"""One over the smallest step size."""
_SHORTCUT_SHARE = 0.25
"""Share of the rows that learns steps larger than the smallest."""
_FREQUENCIES = 8


@dataclass(frozen=True, slots=True)
class FlowCondition:
    """Parts of the head that all passes over one sample share."""

    entered: Tensor
    """The features at the head's width [R, N, W]."""
    modulation: Tensor
    """By the features, of all blocks [R, N, count, W]."""

    def first(self, rows: int) -> FlowCondition:
        """The first ``rows`` rows."""
        return FlowCondition(self.entered[:rows], self.modulation[:rows])


class FlowHead(nn.Module):
    """Predicts the clean sample from a noisy one, given features of every token."""

    def __init__(self, tokens: int, channels: int, features: int, width: int, blocks: int) -> None:
        super().__init__()
        self.sample_in = nn.Linear(channels, width)
        self.features_in = nn.Linear(features, width)
        self.blocks = nn.ModuleList(MixerBlock(tokens, width) for _ in range(blocks))
        counts = [block.modulations for block in self.blocks if isinstance(block, MixerBlock)]
        self.feature_modulation = Modulation(width, width, counts)
        self.time_modulation = Modulation(width, width, counts)
        self.time_in = nn.Linear(4 * _FREQUENCIES, width)
        self.out = nn.Linear(width, channels)

    def condition(self, features: Tensor) -> FlowCondition:
        """Prepare ``features`` [R, N, D] for any number of passes."""
        entered = self.features_in(features)
        return FlowCondition(entered, self.feature_modulation.vectors(F.silu(entered)))

    def forward(self, condition: FlowCondition, noisy: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        """The clean sample, float32 [R, N, C], from ``noisy`` [R, N, C].

        ``t`` and ``dt`` [R] or [1]: 0 noise to 1 clean, and the size of the step to come.
        """
        times = self.time_in(self.sinusoids(t, dt).to(condition.entered.dtype))[:, None]
        x = self.sample_in(noisy.to(condition.entered.dtype)) + condition.entered + times
        vectors = condition.modulation + self.time_modulation.vectors(F.silu(times))
        for block, modulation in zip(self.blocks, self.time_modulation.split(vectors), strict=True):
            x = block(x, modulation)
        return self.out(F.silu(x)).float()

    def loss(self, features: Tensor, clean: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Shortcut-flow loss over rows: features [R, N, D], clean [R, N, C], weight [R].

        The first quarter of the rows learns larger steps from two of half the size; the others learn the
        smallest step from data. Noise comes from torch's default generator.

        Returns:
            The weighted mean loss, and the smallest steps' weighted mean squared error, both scalar.
        """
        condition, rows, device = self.condition(features), len(clean), clean.device
        large = int(rows * _SHORTCUT_SHARE)
        dt = torch.full((rows,), 1 / FINEST_STEPS, device=device)
        dt[:large] = 0.5 ** torch.randint(0, 3, (large,), device=device)
        t = (torch.rand(rows, device=device) / dt).floor() * dt
        noisy = interpolate(clean, torch.randn_like(clean), t)
        two = self._two_half_steps(condition.first(large), noisy[:large], t[:large], dt[:large])
        target = torch.cat([two, clean[large:]])
        error = (self(condition, noisy, t, dt) - target).square().mean((-1, -2))
        total = (error * (0.9 * t + 0.1) * weight).sum() / weight.sum().clamp(min=1)
        fine, of_fine = error.detach()[large:], weight[large:]
        return total, (fine * of_fine).sum() / of_fine.sum().clamp(min=1)

    @torch.no_grad()
    def _two_half_steps(self, condition: FlowCondition, noisy: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        """The clean sample that one step must predict to arrive where two of half its size do."""
        half = dt / 2
        first = self(condition, noisy, t, half)
        middle = euler_step(noisy, first, t, half)
        second = self(condition, middle, t + half, half)
        end = euler_step(middle, second, t + half, half)
        return noisy + (end - noisy) * ((1 - t) / dt)[:, None, None]

    @staticmethod
    def sinusoids(t: Tensor, dt: Tensor) -> Tensor:
        """Sines and cosines of ``t`` and ``dt`` [R], float32 [R, 32]."""
        angles = [value.float()[:, None] * _frequencies(value.device) for value in (t, dt)]
        return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], -1)


@cache
def _frequencies(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return 2.0 ** torch.arange(_FREQUENCIES, device=device) * math.pi / 2
