"""Memory of a token over time: an LSTM, or attention over a window of past frames.

Both mix each token's own past alone; what crosses tokens is mixed by the blocks between them. Each has a
form for clips, which trains, and a form for one frame, which plays; both give the same numbers.

Shapes: B batch, T frames, N tokens, D width, W frames of context, A heads, d channels of a head.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.model.rope import apply_rope, rope_frequencies

MemoryState = dict[str, Tensor]
"""Named tensors, batch first."""


class TemporalMemory(Protocol):
    """A layer's memory of the past."""

    def initial(self, batch: int, tokens: int, device: torch.device) -> MemoryState:
        """The memory of worlds in which nothing has happened."""

    def clip(self, x: Tensor, state: MemoryState | None) -> tuple[Tensor, MemoryState]:
        """x [B, T, N, D] to the layer's output of the same shape, and the memory after the clip."""

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """As ``clip`` for one frame x [B, N, D]."""


class LstmMemory(nn.Module):
    """An LSTM, the same weights for every token ([Spiral], section 5.2: s_t = f(s_(t-1), a_(t-1)))."""

    def __init__(self, width: int, longest: float = 1.0) -> None:
        """``longest``: frames that some cells remember at first (chrono initialisation, Tallec 2018)."""
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():  # forget slowly at first
            bias = self.weights()[3]
            bias[width : 2 * width].fill_(1.0)
            if longest > 1:
                spans = 1 + torch.rand(width) * (longest - 1)
                bias[width : 2 * width] = spans.log()
                bias[:width] = -spans.log()

    @property
    def has_learnt(self) -> bool:
        """False for fresh weights, which add nothing."""
        return bool(self.out.weight.any())

    def initial(self, batch: int, tokens: int, device: torch.device) -> MemoryState:
        shape = (batch, tokens, self.width)
        return {name: torch.zeros(shape, device=device) for name in ("hidden", "cell")}

    def clip(self, x: Tensor, state: MemoryState | None) -> tuple[Tensor, MemoryState]:
        batch, _, tokens, _ = x.shape
        rows = self.norm(x).transpose(1, 2).flatten(0, 1)
        given = None
        if state is not None:
            given = tuple(state[name].flatten(0, 1)[None].to(rows.dtype) for name in ("hidden", "cell"))
        y, (hidden, cell) = self.lstm(rows, given)
        last = {"hidden": hidden[0], "cell": cell[0]}
        after = {name: part.unflatten(0, (batch, tokens)).float() for name, part in last.items()}
        return self.out(y.unflatten(0, (batch, tokens)).transpose(1, 2)), after

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        normed, (of_input, of_hidden, bias_input, bias_hidden) = self.norm(x), self.weights()
        gates = F.linear(normed, of_input, bias_input)
        gates = gates + F.linear(state["hidden"].to(normed.dtype), of_hidden, bias_hidden)
        enter, forget, new, leave = gates.float().chunk(4, -1)
        cell = forget.sigmoid() * state["cell"] + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        return self.out(hidden.to(normed.dtype)), {"hidden": hidden, "cell": cell}

    def weights(self) -> list[Tensor]:
        """Weights of the input and of the hidden state, and the biases of both."""
        return list(self.lstm.all_weights[0])


class AttentionMemory(nn.Module):
    """Causal attention of each token to itself in the last W frames, this one included, with RoPE in time."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.width, self.heads, self.context = width, heads, context
        self.norm = nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def initial(self, batch: int, tokens: int, device: torch.device) -> MemoryState:
        """Keys and values of the past, newest last, and how many of them there are (int64 [B])."""
        shape = (batch, self.context - 1, tokens, self.width)
        state = {name: torch.zeros(shape, device=device) for name in ("keys", "values")}
        return state | {"filled": torch.zeros(batch, dtype=torch.int64, device=device)}

    def clip(self, x: Tensor, state: MemoryState | None) -> tuple[Tensor, MemoryState]:
        batch, length, tokens, _ = x.shape
        before = self.initial(batch, tokens, x.device) if state is None else state
        query, key, value = self.in_proj(self.norm(x)).chunk(3, -1)
        keys = torch.cat([before["keys"].to(key.dtype), key], 1)
        values = torch.cat([before["values"].to(value.dtype), value], 1)
        y = self._attend(query, keys, values, before["filled"])
        kept = self.context - 1
        after = {
            "keys": keys[:, length:].float(),
            "values": values[:, length:].float(),
            "filled": (before["filled"] + length).clamp(max=kept),
        }
        return self.out(y), after

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        y, after = self.clip(x[:, None], state)
        return y[:, 0], after

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, filled: Tensor) -> Tensor:
        """``query`` [B, T, N, D] over ``keys`` and ``values`` [B, W - 1 + T, N, D]."""
        length, kept = query.shape[1], self.context - 1
        time = torch.arange(kept + length, device=query.device)
        age = time[kept:, None] - time
        near = (age >= 0) & (age < self.context)
        seen = near & (time >= kept - filled[:, None, None])
        dim = self.width // self.heads
        rope = rope_frequencies(time[:, None], (dim,))[:, None, None]
        q, k, v = (part.unflatten(-1, (self.heads, dim)) for part in (query, keys, values))
        q, k = apply_rope(q.float(), rope[kept:]).to(v.dtype), apply_rope(k.float(), rope).to(v.dtype)
        q, k, v = (part.permute(0, 2, 3, 1, 4) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        return y.permute(0, 3, 1, 2, 4).flatten(-2)
