"""The per-frame tokenizer: a convolutional autoencoder that knows no past.

The baseline, and enough for still scenes.

Shapes: B batch, N = gh * gw tokens, C latent channels, H x W frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.tokenizer.layers import Stack, check_blocks
from worldsim.tokenizer.protocol import Motion, Past, View


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameConfig:
    """A per-frame tokenizer for frames of one size."""

    size: tuple[int, int]
    """Frame height and width in pixels."""
    control: int
    """Length of the control vector and twist together."""
    patch: int = 5
    pool: int = 2
    width: int = 64
    depth: int = 3
    channels: int = 16

    def __post_init__(self) -> None:
        check_blocks(self.size, self.patch * self.pool)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens."""
        block = self.patch * self.pool
        return self.size[0] // block, self.size[1] // block

    @property
    def view_channels(self) -> int:
        """Channels of a view's tokens: nothing is known, which takes one."""
        return 1


class FrameTokenizer(nn.Module):
    """Encodes each frame alone."""

    def __init__(self, config: FrameConfig) -> None:
        super().__init__()
        self.config = config
        area, embedding = config.patch**2, 2 * config.width
        self.embed = nn.Parameter(torch.zeros(1, embedding))
        self.look = nn.Conv2d(3 * area, config.width, 3, padding=1)
        self.compare = Stack(config.width, embedding, 1)
        self.squeeze = nn.Conv2d(config.width, embedding, config.pool, config.pool)
        self.distil = Stack(embedding, embedding, 1)
        self.to_latent = nn.Conv2d(embedding, config.channels, 1)
        self.from_latent = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.paint = Stack(config.width, embedding, config.depth)
        self.out = nn.Conv2d(config.width, 3 * area, 3, padding=1)

    @property
    def grid(self) -> tuple[int, int]:
        return self.config.grid

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def view_channels(self) -> int:
        return self.config.view_channels

    @property
    def recalls(self) -> bool:
        return False

    def blank(self, batch: int, device: torch.device) -> Past:
        return Past.blank(batch, self.config.size, device)

    def surroundings(self, planar: Tensor | None) -> Tensor | None:
        return None

    def view(self, past: Past, motion: Motion) -> View:
        """Nothing is known beforehand: every field is blank but the control."""
        batch, height, width = past.reach.shape
        nothing, reach = torch.zeros_like(past.frame), torch.zeros_like(past.reach)
        return View(
            prior=nothing,
            warped=nothing,
            valid=reach[:, None],
            grid=reach.new_zeros(batch, height, width, 2),
            past=past.frame,
            reach=reach,
            tokens=reach.new_zeros(batch, self.tokens, self.view_channels),
            control=motion.control,
        )

    def encode(self, frame: Tensor, view: View) -> Tensor:
        """Frame [B, 3, H, W] to latent [B, N, C] in (-1, 1); the view is not used."""
        embedding = self.embed.expand(len(frame), -1)
        patches = F.pixel_unshuffle(frame.to(self.look.weight.dtype), self.config.patch)
        hidden = self.look(patches)
        hidden = self.distil(self.squeeze(self.compare(hidden, embedding)), embedding)
        return self.to_latent(hidden).float().tanh().flatten(2).transpose(1, 2)

    def decode(self, latent: Tensor, view: View) -> Tensor:
        """Latent [B, N, C] to frame [B, 3, H, W]; the view is not used."""
        planes = latent.transpose(1, 2).unflatten(2, self.grid).to(self.from_latent.weight.dtype)
        planes = F.interpolate(planes, scale_factor=self.config.pool, mode="bilinear", align_corners=False)
        hidden = self.paint(self.from_latent(planes), self.embed.expand(len(latent), -1))
        return F.pixel_shuffle(self.out(F.silu(hidden)).float(), self.config.patch)
