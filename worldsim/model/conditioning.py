"""Modulation of a frame by its control, its flow time and the size of the next denoising step.

Shapes: B batch, T frames, M control and twist, D width, L blocks.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.kernels.dense import Dense
from worldsim.kernels.library import kernels_enabled

_FREQUENCIES = 32
"""Sine features of a flow time or step size."""


def _sinusoids(x: Tensor) -> Tensor:
    """Sine features [..., 32] of ``x`` [...] in [0, 1]."""
    angle = x.float()[..., None] * _frequencies(x.device)
    return torch.cat([angle.sin(), angle.cos()], -1)


@cache
def _frequencies(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.exp(torch.linspace(0, math.log(200.0), _FREQUENCIES // 2, device=device)) * math.pi


class Conditioning(nn.Module):
    """Control, noise level and step size to the modulation of all L blocks (adaLN; Peebles and Xie, DiT).

    One matmul for all of them: a small one for each would cost more than its arithmetic.
    """

    def __init__(self, control: int, width: int, blocks: int) -> None:
        super().__init__()
        self.control_embed = nn.Sequential(
            BatchInvariantLinear(control, width), nn.SiLU(), BatchInvariantLinear(width, width)
        )
        self.null_control = nn.Parameter(torch.randn(width) * 0.02)
        self.time_embed = nn.Sequential(
            BatchInvariantLinear(2 * _FREQUENCIES, width), nn.SiLU(), BatchInvariantLinear(width, width)
        )
        self.modulation = nn.Linear(width, 3 * blocks * width)
        self.blocks = blocks
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self._modulation_kernel: Dense | None = None

    def enable_kernels(self) -> None:
        """Use a kernel for inference from now on; the weights must not change."""
        self._modulation_kernel = Dense(self.modulation.weight, self.modulation.bias)

    def forward(self, control: Tensor, t: Tensor, dt: Tensor, control_mask: Tensor | None = None) -> Tensor:
        """Scale (about 1), shift and gate of every block, float32 [B, T, 3, L, D].

        ``control`` [B, T, M] or, for several passes over one unit, [B, 1, M]; ``t`` [B, T], 0 noise to 1
        clean; ``dt`` [B, T] in (0, 1]; both [1, T] where all worlds have the same. Where ``control_mask``
        [B, T] is False the control is replaced by a learnt null control. With ``t`` and ``dt`` of each of P
        parts of a unit [B, T, P] the result is [B, T, P, 3, L, D].
        """
        embedded = self.control_embed(control)
        if control_mask is not None:
            embedded = torch.where(control_mask[..., None], embedded, self.null_control.to(embedded.dtype))
        if t.ndim == 3:
            embedded = embedded[:, :, None]
        # Each pass is a row of its own: five in one product come out otherwise on two threads than on one.
        times = _sinusoids(torch.stack([t, dt], -1)).flatten(-2)
        embedded = embedded + self.time_embed(times.flatten(0, -2)[:, None]).view(*t.shape, -1)
        embedded = F.silu(embedded)
        if self._modulation_kernel is not None and kernels_enabled():
            modulation = self._modulation_kernel(embedded)
        else:
            modulation = self.modulation(embedded.to(self.modulation.weight.dtype)).float()
        scale, rest = modulation.unflatten(-1, (3, self.blocks, -1)).split([1, 2], -3)
        return torch.cat([scale + 1, rest], -3)
