"""The flow prior: a learnt warp of the previous frame, for worlds without a static scene.

A small network predicts from the previous frame and the condition (keys, yaw, twist) a coarse flow and the
confidence in it. Sources: CDNA and video codecs for transforming the past before anything is added to it;
Monodepth for the photometric loss that trains it (``training.losses.warp_loss``).

Shapes: B batch, M condition, H x W frame, h x w cells of ``patch`` pixels to a side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.tokenizer.layers import ResidualBlock, crop, pad_blocks

FLOW_SCALE = 0.1
"""Flow, in half frames, that an output of 1 stands for."""
_CONFIDENT = 4.0
"""Log-odds of the confidence before anything is learnt: 0.98."""


class FlowPrior(nn.Module):
    """Flow and confidence of each pixel of the new frame; at first no flow, and nearly full confidence.

    Args:
        patch: pixels to a side of a cell.
        width: channels of a cell, a multiple of 8.
        condition_size: length of the condition, M.
    """

    def __init__(self, patch: int, width: int, condition_size: int) -> None:
        super().__init__()
        self.patch = patch
        self.condition_embed = nn.Sequential(BatchInvariantLinear(condition_size, 2 * width), nn.SiLU())
        self.pixels_in = nn.Conv2d(3, width, 3 * patch, stride=patch, padding=patch)
        self.block = ResidualBlock(width, 2 * width)
        self.norm = nn.GroupNorm(8, width)
        self.out = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, previous: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Flow and confidence of a frame after ``previous`` [B, 3, H, W] under ``condition`` [B, M].

        Returns:
            Displacements [B, H, W, 2] in [-1, 1] coordinates (x, y), to where each pixel was; and the
            confidence [B, 1, H, W] in (0, 1). Both float32.
        """
        size = (previous.shape[-2], previous.shape[-1])
        image = pad_blocks(previous, self.patch).to(self.pixels_in.weight.dtype).contiguous()
        hidden = self.block(self.pixels_in(image), self.condition_embed(condition))
        cells = self.out(F.silu(self.norm(hidden))).float()
        fine = F.interpolate(cells, scale_factor=self.patch, mode="bilinear", align_corners=False)
        flow, logit = crop(fine, size).split([2, 1], 1)
        return FLOW_SCALE * flow.permute(0, 2, 3, 1), torch.sigmoid(logit + _CONFIDENT)
