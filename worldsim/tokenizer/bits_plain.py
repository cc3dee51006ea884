"""The plain bitwise quantiser: the per-frame tokenizer, whose codes are rounded to -1 or 1.

Shapes: B batch, N tokens, C bits of a token, H x W frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldsim.camera import Intrinsics
from worldsim.registry import register
from worldsim.tokenizer.frame import FrameConfig, FrameTokenizer
from worldsim.tokenizer.protocol import Prior


@register("tokenizer", "bits-plain")
@dataclass(frozen=True, kw_only=True, slots=True)
class BitsPlainConfig(FrameConfig):
    """A per-frame tokenizer of ``channels`` bits a token."""

    def build(
        self, size: tuple[int, int], condition_size: int, intrinsics: Intrinsics | None
    ) -> BitsPlainTokenizer:
        """The tokenizer of frames of ``size``; it needs neither condition nor camera."""
        return BitsPlainTokenizer(self, size)


class BitsPlainTokenizer(FrameTokenizer):
    """Encodes each frame alone, in bits; gradients pass the rounding as if it were not there."""

    def __init__(self, config: BitsPlainConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        self.latent_spec = replace(self.latent_spec, kind="bits")

    def encode(self, frame: Tensor, prior: Prior) -> Tensor:
        """Frame [B, 3, H, W] to bits [B, N, C], each -1 or 1; the prior is not used."""
        soft = super().encode(frame, prior)
        bits = torch.where(soft > 0, 1.0, -1.0)
        return soft + (bits - soft).detach() if soft.requires_grad else bits
