"""A block over the tokens of one frame: token mixing and a channel MLP, both modulated by a condition.

Token mixing (MLP-Mixer, Tolstikhin et al. 2021) costs a fraction of attention at a dozen tokens and knows
each token's position without a position code. For one token it is left out.

Shapes: ... batch axes, N tokens, D width, M condition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MixerBlock(nn.Module):
    """x + token mixing, then x + channel MLP; each behind a norm that ``modulation`` scales and shifts."""

    def __init__(self, tokens: int, width: int, expansion: int = 2) -> None:
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.tokens_in = nn.Linear(tokens, 4 * tokens) if tokens > 1 else None
        self.tokens_out = nn.Linear(4 * tokens, tokens) if tokens > 1 else None
        self.channels_in = nn.Linear(width, expansion * width)
        self.channels_out = nn.Linear(expansion * width, width)
        for layer in (self.tokens_out, self.channels_out):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @property
    def modulations(self) -> int:
        """Vectors of width D that the block is modulated by."""
        return 2 if self.tokens_in is None else 4

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [..., N, D]; ``modulation`` [..., N or 1, modulations, D]: scales about 0, then shifts."""
        parts = list(modulation.unbind(-2))
        if self.tokens_in is not None and self.tokens_out is not None:
            mixed = (self.norm(x) * (1 + parts[2]) + parts[3]).transpose(-1, -2)
            x = x + self.tokens_out(F.silu(self.tokens_in(mixed))).transpose(-1, -2)
        hidden = self.norm(x) * (1 + parts[0]) + parts[1]
        return x + self.channels_out(F.silu(self.channels_in(hidden)))


class Modulation(nn.Module):
    """A condition [..., M] to the modulations of several blocks, zero at first (adaLN; Peebles and Xie)."""

    def __init__(self, inputs: int, width: int, counts: list[int]) -> None:
        super().__init__()
        self.counts, self.width = counts, width
        self.linear = nn.Linear(inputs, sum(counts) * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> list[Tensor]:
        """One [..., count, D] for each block."""
        return self.split(self.vectors(condition))

    def vectors(self, condition: Tensor) -> Tensor:
        """Those of all blocks [..., sum of counts, D]."""
        return self.linear(condition).unflatten(-1, (-1, self.width))

    def split(self, vectors: Tensor) -> list[Tensor]:
        """The same, block by block."""
        return list(torch.split(vectors, self.counts, -2))
