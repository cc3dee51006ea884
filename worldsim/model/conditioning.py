"""What modulates a frame: its control, how noisy it is, and how far the next denoising step goes.

Shapes: B batch, T frames, M control and twist, D width, L blocks.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.alone import Alone
from worldsim.kernels.dense import Dense
from worldsim.kernels.library import may_run

_WAVES = 32
"""Sine features of a level or size."""


def _waves(x: Tensor) -> Tensor:
    """Sine features [..., 32] of ``x`` [...] in [0, 1]."""
    angle = x.float()[..., None] * _rates(x.device)
    return torch.cat([angle.sin(), angle.cos()], -1)


@cache
def _rates(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.exp(torch.linspace(0, math.log(200.0), _WAVES // 2, device=device)) * math.pi


class Conditioning(nn.Module):
    """Control, noise level and step size to the modulation of all L blocks (adaLN; Peebles and Xie, DiT).

    One matmul for all of them: a small one for each would cost more than its arithmetic.
    """

    def __init__(self, control: int, width: int, blocks: int) -> None:
        super().__init__()
        self.control = nn.Sequential(Alone(control, width), nn.SiLU(), Alone(width, width))
        self.unknown = nn.Parameter(torch.randn(width) * 0.02)
        self.level = nn.Sequential(Alone(2 * _WAVES, width), nn.SiLU(), Alone(width, width))
        self.modulate = nn.Linear(width, 3 * blocks * width)
        self.blocks = blocks
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self._modulate: Dense | None = None

    def quicken(self) -> None:
        """Let a kernel multiply from now on, where nothing is taught; the weights must stay as they are."""
        self._modulate = Dense(self.modulate.weight, self.modulate.bias)

    def forward(self, control: Tensor, level: Tensor, step: Tensor, known: Tensor | None = None) -> Tensor:
        """Scale (about 1), shift and gate of every block, float32 [B, T, 3, L, D].

        ``control`` [B, T, M] or, for several passes over one frame, [B, 1, M]; ``level`` [B, T], 0 noise to 1
        clean; ``step`` [B, T] in (0, 1]; both [1, T] where all worlds have the same; ``known`` bool [B, T]:
        where ``known`` is False the control is replaced by a learnt "unknown".
        """
        embedded = self.control(control)
        if known is not None:
            embedded = torch.where(known[..., None], embedded, self.unknown.to(embedded.dtype))
        embedded = embedded + self.level(_waves(torch.stack([level, step], -1)).flatten(-2))
        embedded = F.silu(embedded)
        if self._modulate is not None and may_run():
            modulation = self._modulate(embedded)
        else:
            modulation = self.modulate(embedded.to(self.modulate.weight.dtype)).float()
        modulation = modulation.unflatten(-1, (3, self.blocks, -1))
        return torch.cat([modulation[:, :, :1] + 1, modulation[:, :, 1:]], 2)
