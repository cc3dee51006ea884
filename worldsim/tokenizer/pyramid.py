"""A multi-scale residual binary quantiser: a plane of features to bits on several grids, coarse to fine.

Every scale codes what the coarser ones left: the residual is averaged down to the scale's grid, normalised,
and reduced to its signs (binary spherical quantisation, BSQ: Zhao et al. 2024; the residual pyramid of VAR
and of Infinity; [VideoAR]). Decoding adds the scales up again in the same order, so that encoder and decoder
agree to the bit.

Shapes: B batch, C bits of a token, N tokens of all scales, h x w finest grid, K scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import ConfigError

_SHARPNESS = 4.0
"""Slope of a bit's soft probability in units of the deviation of a token's features."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """The bits of planes, and what the decoder gets from them."""

    bits: Tensor
    """The answer of each scale to the residual it saw, -1 or 1 [B, N, C]; gradients pass the signs."""
    seen: Tensor
    """The bits with the flips that were asked for [B, N, C]."""
    features: Tensor
    """Features from ``seen``, float32 [B, C, h, w]."""
    commitment: Tensor
    """Mean squared distance of the normalised residuals from their signs."""
    entropy: Tensor
    """Entropy of each bit minus that of its mean over the batch; falls as bits are sure and well used."""


class BitPyramid(nn.Module):
    """Quantises planes [B, C, h, w] on K grids, with one learnt gain per scale.

    Args:
        scales: rows and columns of every scale, coarse to fine; the last is the planes' own.
        channels: bits of a token, C.
    """

    def __init__(self, scales: tuple[tuple[int, int], ...], channels: int) -> None:
        super().__init__()
        self.scales, self.channels, self.grid = scales, channels, scales[-1]
        self.areas = [rows * columns for rows, columns in scales]
        """Tokens of each scale."""
        self.gain = nn.Parameter(torch.linspace(0.4, 0.8, len(scales)))

    def forward(self, planes: Tensor, flips: Tensor | None = None) -> Quantised:
        """Quantise ``planes`` [B, C, h, w].

        Args:
            planes: features of the finest grid.
            flips: bits that are taken for their opposite, bool [B, N, C]; finer scales answer to what is left
                then (bitwise self-correction, Infinity; [VideoAR]). None: no bit.
        """
        planes = _normalised(planes.float())
        features = torch.zeros_like(planes)
        wrong: list[Tensor | None] = [None] * len(self.scales)
        if flips is not None:
            wrong = [*self._planes_of(flips)]
        bits, seen, commitment, entropy = [], [], planes.new_zeros(()), planes.new_zeros(())
        for number, wanted in enumerate(wrong):
            soft = _normalised(self._down(planes - features.detach(), number))
            hard = torch.where(soft > 0, 1.0, -1.0)
            answer = soft + (hard - soft).detach() if soft.requires_grad else hard
            used = answer if wanted is None else torch.where(wanted, -hard, answer)
            features = features + self.gain[number] * self._up(used)
            commitment = commitment + (soft - hard).square().mean() / len(self.scales)
            entropy = entropy + _entropy_gap(soft) / len(self.scales)
            bits.append(_tokens(answer))
            seen.append(_tokens(used))
        return Quantised(torch.cat(bits, 1), torch.cat(seen, 1), features, commitment, entropy)

    def encode(self, planes: Tensor) -> Tensor:
        """The bits [B, N, C] of ``planes`` [B, C, h, w], without gradients."""
        with torch.no_grad():
            return self(planes).bits

    def features(self, bits: Tensor) -> Tensor:
        """The features float32 [B, C, h, w] of ``bits`` [B, N, C].

        Raises:
            ConfigError: bits of other scales.
        """
        tokens = sum(self.areas)
        if bits.shape[1:] != (tokens, self.channels):
            rule = f"the scales {self.scales} hold {tokens} tokens of {self.channels} bits"
            raise ConfigError(rule, tuple(bits.shape[1:]), "decode bits with the tokenizer that made them")
        total = bits.new_zeros(len(bits), self.channels, *self.grid, dtype=torch.float32)
        for number, plane in enumerate(self._planes_of(bits.float())):
            total = total + self.gain[number] * self._up(plane)
        return total

    def _planes_of(self, tokens: Tensor) -> list[Tensor]:
        """``tokens`` [B, N, C] as one plane [B, C, rows, columns] for each scale."""
        parts = tokens.transpose(1, 2).split(self.areas, 2)
        return [part.unflatten(2, scale) for part, scale in zip(parts, self.scales, strict=True)]

    def _down(self, planes: Tensor, number: int) -> Tensor:
        scale = self.scales[number]
        return planes if scale == self.grid else F.adaptive_avg_pool2d(planes, scale)

    def _up(self, planes: Tensor) -> Tensor:
        if planes.shape[-2:] == self.grid:
            return planes
        return F.interpolate(planes, self.grid, mode="bilinear", align_corners=False)


def halved(grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Scales from one token to ``grid``, each about half as fine as the next."""
    scales = [grid]
    while max(scales[0]) > 1:
        rows, columns = scales[0]
        scales.insert(0, (-(-rows // 2), -(-columns // 2)))
    return tuple(scales)


def _normalised(planes: Tensor) -> Tensor:
    """``planes`` [B, C, ...] at a mean square of 1 in every place."""
    return planes * (planes.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _tokens(planes: Tensor) -> Tensor:
    """Planes [B, C, rows, columns] as tokens [B, rows * columns, C]."""
    return planes.flatten(2).transpose(1, 2)


def _entropy_gap(soft: Tensor) -> Tensor:
    """Mean entropy of the bits of ``soft`` [B, C, ...] minus the entropy of their means, in nats per bit.

    A bit's soft probability is the sigmoid of its value (the analytic form of Infinity).
    """
    chance = (_SHARPNESS * soft).sigmoid()
    own, of_mean = _bit_entropy(chance).mean(), _bit_entropy(chance.mean((0, 2, 3))).mean()
    return own - of_mean


def _bit_entropy(chance: Tensor) -> Tensor:
    chance = chance.clamp(1e-5, 1 - 1e-5)
    return -(chance * chance.log() + (1 - chance) * (1 - chance).log())
