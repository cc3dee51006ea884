"""The per-frame tokenizer: a convolutional autoencoder that knows no past.

The baseline, and enough for still scenes.

Shapes: B batch, N = gh * gw tokens, C latent channels, H x W frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.camera import Intrinsics
from worldsim.casting import cast
from worldsim.registry import register
from worldsim.tokenizer.layers import ResidualStack, block_grid, crop, pad_blocks
from worldsim.tokenizer.protocol import LatentSpec, MotionCondition, PreviousFrame, Prior


@register("tokenizer", "frame")
@dataclass(frozen=True, kw_only=True, slots=True)
class FrameConfig:
    """A per-frame tokenizer."""

    patch: int = 5
    pool: int = 2
    width: int = 64
    depth: int = 3
    channels: int = 16

    def build(
        self, size: tuple[int, int], condition_size: int, intrinsics: Intrinsics | None
    ) -> FrameTokenizer:
        """The tokenizer of frames of ``size``; it needs neither condition nor camera."""
        return FrameTokenizer(self, size)


class FrameTokenizer(nn.Module):
    """Encodes each frame alone."""

    scene = None
    supports_kernels = False
    prior_channels = 1
    """Nothing is known, which takes one."""
    uses_previous_frame = False

    def __init__(self, config: FrameConfig, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.size = config, size
        rows, columns = block_grid(size, config.patch * config.pool)
        self.latent_spec = LatentSpec(
            kind="continuous",
            tokens=rows * columns,
            channels=config.channels,
            grid=(rows, columns),
            bounded=True,
        )
        area, embedding = config.patch**2, 2 * config.width
        self.embedding = nn.Parameter(torch.zeros(1, embedding))
        self.pixels_in = nn.Conv2d(3 * area, config.width, 3, padding=1)
        self.encoder = ResidualStack(config.width, embedding, 1)
        self.downsample = nn.Conv2d(config.width, embedding, config.pool, config.pool)
        self.token_encoder = ResidualStack(embedding, embedding, 1)
        self.to_latent = nn.Conv2d(embedding, config.channels, 1)
        self.from_latent = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.decoder = ResidualStack(config.width, embedding, config.depth)
        self.out = nn.Conv2d(config.width, 3 * area, 3, padding=1)

    def prepare(self, dtype: torch.dtype) -> None:
        for module in self.children():
            cast(module, dtype)

    def blank(self, batch: int, device: torch.device) -> PreviousFrame:
        return PreviousFrame.blank(batch, self.size, device)

    def prior(self, previous: PreviousFrame, motion: MotionCondition) -> Prior:
        return Prior.unknown(previous, motion, self.latent_spec.tokens, self.prior_channels)

    def encode(self, frame: Tensor, prior: Prior) -> Tensor:
        """Frame [B, 3, H, W] to latent [B, N, C] in (-1, 1); the prior is not used."""
        embedding = self.embedding.repeat(
            len(frame), 1
        )  # no view: FLOPs of views of a weight cannot be counted
        whole = pad_blocks(frame.to(self.pixels_in.weight.dtype), self.config.patch * self.config.pool)
        patches = F.pixel_unshuffle(whole, self.config.patch)
        hidden = self.pixels_in(patches)
        hidden = self.token_encoder(self.downsample(self.encoder(hidden, embedding)), embedding)
        return self.to_latent(hidden).float().tanh().flatten(2).transpose(1, 2)

    def decode(self, latent: Tensor, prior: Prior) -> Tensor:
        """Latent [B, N, C] to frame [B, 3, H, W]; the prior is not used."""
        planes = latent.transpose(1, 2).unflatten(2, self.latent_spec.grid).to(self.from_latent.weight.dtype)
        planes = F.interpolate(planes, scale_factor=self.config.pool, mode="bilinear", align_corners=False)
        hidden = self.decoder(self.from_latent(planes), self.embedding.repeat(len(latent), 1))
        return crop(F.pixel_shuffle(self.out(F.silu(hidden)).float(), self.config.patch), self.size)
