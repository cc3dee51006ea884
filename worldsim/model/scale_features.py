"""Tensors that a next-scale generator hands to its sampler, and its protocol.

Shapes: B batch, T frames, N tokens, n tokens of a pass, G tokens of the finest scale, C bits of a token, D
width, L layers, W frames of context, A heads, d channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from worldsim.model.scale_maps import ScaleMaps


@dataclass(frozen=True, slots=True)
class ScaleLogits:
    """Logits of the bits of one scale: those of bit j are ``base`` + ``coupling`` times the bits before j."""

    base: Tensor
    """float32 [..., n, C]"""
    coupling: Tensor
    """Weight of bit i (last axis) in the logit of bit j, 0 unless i < j, float32 [..., n, C, C]."""

    def given(self, bits: Tensor) -> Tensor:
        """Logits [..., n, C] where ``bits`` [..., n, C] are known: a bit's reads those before it."""
        return self.base + (self.coupling @ bits[..., None].to(self.coupling.dtype))[..., 0]


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """Features of the frames of clips, each given the frames before and its own coarser scales."""

    hidden: Tensor
    """[B, T, N, D]"""
    places: Tensor
    """Features of every place of the frames before, side by side [B, T, G 16]."""


@dataclass(slots=True)
class PreparedScales:
    """All that the passes over one frame share, and the keys and values that they leave."""

    given: Tensor
    """Input of every token that does not hang on the frame's own bits [B, N, D]."""
    places: Tensor
    """Features of every place of the frames before, side by side [B, G 16]."""
    previous: Tensor
    """Bits of the frame before [B, N, C]; 0 where there is none."""
    modulation: Tensor
    """[B, 3, L, D]"""
    past: list[tuple[Tensor, Tensor]]
    """Rotated keys and values of the frames before, by layer, both [B, A, (W - 1) N, d]."""
    seen: Tensor
    """True for frames before that exist, bool [B, 1, 1, (W - 1) N]."""
    units: Tensor
    """Frames so far, int64 [B]."""
    keys: list[Tensor]
    """Raw keys of the frame's finished scales, by layer [B, n, A, d]."""
    values: list[Tensor]
    """Their values."""
    hidden: list[Tensor] = field(default_factory=list)
    """Features of the finished scales [B, n, D]."""
    drawn: list[Tensor] = field(default_factory=list)
    """Logits that the bits of the drawn scales were drawn by, each given those before it [B, n, C]."""


class ScaleGenerator(Protocol):
    """Generator of bits, scale after scale: what the next-scale sampler needs beside ``Generator``."""

    @property
    def maps(self) -> ScaleMaps:
        """The scales."""

    def scale_logits(self, prepared: PreparedScales, bits: Tensor, index: int) -> ScaleLogits:
        """Logits of scale ``index``; of ``bits`` [B, N, C] those of coarser scales are read."""
