"""The recurrent cells: ConvLSTM (Shi et al., 2015) and PredRNN's spatio-temporal LSTM (Wang et al., 2017).

Shapes: B sequences, C channels, h x w cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ConvLSTMCell", "SpatioTemporalCell"]


class ConvLSTMCell(nn.Module):
    """An LSTM whose matrix products are convolutions."""

    def __init__(self, inputs: int, hidden: int, kernel: int = 5) -> None:
        super().__init__()
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Input [B, C, h, w] and state to the next state."""
        i, f, o, g = self.gates(torch.cat([x, hidden], 1)).chunk(4, 1)
        cell = torch.sigmoid(f + 1) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell


class SpatioTemporalCell(nn.Module):
    """An LSTM with a second memory, handed from layer to layer, and from the last to the next frame."""

    def __init__(self, inputs: int, hidden: int, kernel: int = 5) -> None:
        super().__init__()
        pad = kernel // 2
        self.x = nn.Conv2d(inputs, 7 * hidden, kernel, padding=pad)
        self.h = nn.Conv2d(hidden, 4 * hidden, kernel, padding=pad)
        self.m = nn.Conv2d(hidden, 3 * hidden, kernel, padding=pad)
        self.o = nn.Conv2d(2 * hidden, hidden, kernel, padding=pad)
        self.last = nn.Conv2d(2 * hidden, hidden, 1)

    def forward(
        self, x: Tensor, hidden: Tensor, cell: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Input [B, C, h, w], state and memory to the next of each."""
        xi, xf, xg, xi2, xf2, xg2, xo = self.x(x).chunk(7, 1)
        hi, hf, hg, ho = self.h(hidden).chunk(4, 1)
        mi, mf, mg = self.m(memory).chunk(3, 1)
        cell = torch.sigmoid(xf + hf + 1) * cell + torch.sigmoid(xi + hi) * torch.tanh(xg + hg)
        memory = torch.sigmoid(xf2 + mf + 1) * memory + torch.sigmoid(xi2 + mi) * torch.tanh(xg2 + mg)
        both = torch.cat([cell, memory], 1)
        hidden = torch.sigmoid(xo + ho + self.o(both)) * torch.tanh(self.last(both))
        return hidden, cell, memory
