"""What modulates a frame: its control, how noisy it is, and how far the next denoising step goes.

Shapes: B batch, T frames, M control and twist, D width, L blocks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def waves(x: Tensor, dim: int) -> Tensor:
    """Sine features [..., dim] of ``x`` [...] in [0, 1]."""
    rates = torch.exp(torch.linspace(0, math.log(200.0), dim // 2, device=x.device))
    angle = x.float()[..., None] * rates * math.pi
    return torch.cat([angle.sin(), angle.cos()], -1)


class Conditioning(nn.Module):
    """Control, noise level and step size to the modulation of all L blocks (adaLN; Peebles and Xie, DiT).

    One matmul for all of them: a small one for each would cost more than its arithmetic.
    """

    def __init__(self, control: int, width: int, blocks: int) -> None:
        super().__init__()
        self.control = nn.Sequential(nn.Linear(control, width), nn.SiLU(), nn.Linear(width, width))
        self.unknown = nn.Parameter(torch.randn(width) * 0.02)
        self.level = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.modulate = nn.Linear(width, 3 * blocks * width)
        self.blocks = blocks
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, control: Tensor, level: Tensor, step: Tensor, known: Tensor | None = None) -> Tensor:
        """Scale (about 1), shift and gate of every block, float32 [B, T, 3, L, D].

        ``control`` [B, T, M] or, for several passes over one frame, [B, 1, M]; ``level`` [B, T], 0 noise to 1
        clean; ``step`` [B, T] in (0, 1]; ``known`` bool [B, T]: where ``known`` is False the control is
        replaced by a learnt "unknown".
        """
        dtype = self.modulate.weight.dtype
        embedded = self.control(control.to(dtype))
        if known is not None:
            embedded = torch.where(known[..., None], embedded, self.unknown.to(embedded.dtype))
        embedded = embedded + self.level(torch.cat([waves(level, 32), waves(step, 32)], -1).to(dtype))
        modulation = self.modulate(F.silu(embedded)).float().unflatten(-1, (3, self.blocks, -1))
        return torch.cat([modulation[:, :, :1] + 1, modulation[:, :, 1:]], 2)
