"""Convolutional parts that the tokenizers share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.errors import ConfigError


def block_grid(size: tuple[int, int], block: int) -> tuple[int, int]:
    """Rows and columns of blocks of ``block`` pixels to a side that cover frames of ``size`` pixels.

    Frames need not be made of whole blocks: networks see them padded, see :func:`pad_blocks`.

    Raises:
        ConfigError: a size or a block of no pixels.
    """
    if min(*size, block) < 1:
        raise ConfigError("a frame and its blocks must have pixels", (*size, block), "choose larger ones")
    return -(-size[0] // block), -(-size[1] // block)


def pad_blocks(image: Tensor, block: int) -> Tensor:
    """``image`` [B, C, H, W] with its last row and column repeated up to whole blocks."""
    down, right = -image.shape[-2] % block, -image.shape[-1] % block
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of a padded ``image`` [B, C, H, W] that is the frame of ``size`` pixels."""
    height, width = size
    return image if tuple(image.shape[-2:]) == (height, width) else image[..., :height, :width]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a zero-initialised last one, modulated by an embedding (FiLM)."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.film = BatchInvariantLinear(embedding, 2 * width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [B, width, h, w], embedding [B, E] -> [B, width, h, w]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding).to(hidden.dtype)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(F.silu(self.norm2(hidden) * (1 + scale) + shift))


class ResidualStack(nn.Module):
    """Residual blocks one after another under the same embedding."""

    def __init__(self, width: int, embedding: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width, embedding) for _ in range(depth))

    def films(self, embedding: Tensor) -> Tensor:
        """FiLM scale and shift of each block [B, depth, 2 width]."""
        blocks = [block for block in self.blocks if isinstance(block, ResidualBlock)]
        return torch.stack([block.film(embedding) for block in blocks], 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """As ``ResidualBlock.forward``."""
        for block in self.blocks:
            x = block(x, embedding)
        return x
