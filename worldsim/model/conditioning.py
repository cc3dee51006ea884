"""What modulates a frame: its control, how noisy it is, and how far the next denoising step goes.

Shapes: B batch, T frames, M control and twist, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def waves(x: Tensor, dim: int) -> Tensor:
    """Sine features [..., dim] of ``x`` [...] in [0, 1]."""
    rates = torch.exp(torch.linspace(0, math.log(200.0), dim // 2, device=x.device))
    angle = x.float()[..., None] * rates * math.pi
    return torch.cat([angle.sin(), angle.cos()], -1)


class Conditioning(nn.Module):
    """Control, noise level and step size to one embedding per frame (adaLN; Peebles and Xie, DiT)."""

    def __init__(self, control: int, width: int) -> None:
        super().__init__()
        self.control = nn.Sequential(nn.Linear(control, width), nn.SiLU(), nn.Linear(width, width))
        self.unknown = nn.Parameter(torch.randn(width) * 0.02)
        self.level = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, control: Tensor, level: Tensor, step: Tensor, known: Tensor | None = None) -> Tensor:
        """One embedding per frame [B, T, D].

        ``control`` [B, T, M]; ``level`` [B, T], 0 noise to 1 clean; ``step`` [B, T] in (0, 1]; ``known`` bool
        [B, T]: where ``known`` is False the control is replaced by a learnt "unknown".
        """
        embedded = self.control(control)
        if known is not None:
            embedded = torch.where(known[..., None], embedded, self.unknown.to(embedded.dtype))
        return embedded + self.level(torch.cat([waves(level, 32), waves(step, 32)], -1))
