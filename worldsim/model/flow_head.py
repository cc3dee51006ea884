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

from worldsim.model.flow import advance, mix
from worldsim.model.mixer import MixerBlock, Modulation

SMALLEST = 8
"""One over the smallest step size."""
_LARGE = 0.25
"""Share of the rows that learns steps larger than the smallest."""
_WAVES = 8


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
        self.by_features = Modulation(width, width, counts)
        self.by_level = Modulation(width, width, counts)
        self.level_in = nn.Linear(4 * _WAVES, width)
        self.out = nn.Linear(width, channels)

    def condition(self, features: Tensor) -> FlowCondition:
        """Prepare ``features`` [R, N, D] for any number of passes."""
        entered = self.features_in(features)
        return FlowCondition(entered, self.by_features.vectors(F.silu(entered)))

    def forward(self, condition: FlowCondition, noisy: Tensor, level: Tensor, size: Tensor) -> Tensor:
        """The clean sample, float32 [R, N, C], from ``noisy`` [R, N, C].

        ``level`` and ``size`` [R] or [1]: 0 noise to 1 clean, and the size of the step to come.
        """
        times = self.level_in(self.waves(level, size).to(condition.entered.dtype))[:, None]
        x = self.sample_in(noisy.to(condition.entered.dtype)) + condition.entered + times
        vectors = condition.modulation + self.by_level.vectors(F.silu(times))
        for block, modulation in zip(self.blocks, self.by_level.split(vectors), strict=True):
            x = block(x, modulation)
        return self.out(F.silu(x)).float()

    def loss(
        self, features: Tensor, clean: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shortcut-flow loss over rows: features [R, N, D], clean [R, N, C], weight [R].

        The first quarter of the rows learns larger steps from two of half the size; the others learn the
        smallest step from data. Noise comes from torch's default generator.

        Returns:
            The weighted mean loss, and the smallest steps' weighted mean squared error, both scalar.
        """
        condition, rows, device = self.condition(features), len(clean), clean.device
        large = int(rows * _LARGE)
        size = torch.full((rows,), 1 / SMALLEST, device=device)
        size[:large] = 0.5 ** torch.randint(0, 3, (large,), device=device)
        level = (torch.rand(rows, device=device) / size).floor() * size
        noisy = mix(clean, torch.randn_like(clean), level)
        two = self._two_halves(condition.first(large), noisy[:large], level[:large], size[:large])
        target = torch.cat([two, clean[large:]])
        error = (self(condition, noisy, level, size) - target).square().mean((-1, -2))
        total = (error * (0.9 * level + 0.1) * weight).sum() / weight.sum().clamp(min=1)
        fine, of_fine = error.detach()[large:], weight[large:]
        return total, (fine * of_fine).sum() / of_fine.sum().clamp(min=1)

    @torch.no_grad()
    def _two_halves(self, condition: FlowCondition, noisy: Tensor, level: Tensor, size: Tensor) -> Tensor:
        """The clean sample that one step must predict to arrive where two of half its size do."""
        half = size / 2
        first = self(condition, noisy, level, half)
        middle = advance(noisy, first, level, half)
        second = self(condition, middle, level + half, half)
        end = advance(middle, second, level + half, half)
        return noisy + (end - noisy) * ((1 - level) / size)[:, None, None]

    @staticmethod
    def waves(level: Tensor, size: Tensor) -> Tensor:
        """Sines and cosines of ``level`` and ``size`` [R], float32 [R, 32]."""
        angles = [value.float()[:, None] * _rates(value.device) for value in (level, size)]
        return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], -1)


@cache
def _rates(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return 2.0 ** torch.arange(_WAVES, device=device) * math.pi / 2
