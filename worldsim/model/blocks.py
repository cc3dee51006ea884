"""One block: attention over the frame, over the past, SwiGLU; each modulated and gated (adaLN-zero).

Shapes: B batch, T frames, N tokens, D width, A heads, d = D / A, W cached frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.model.attention import attend
from worldsim.model.rope import angles, rotate


@dataclass(frozen=True, slots=True)
class PastKeys:
    """One layer's share of the cache."""

    keys: Tensor
    """Raw keys [B, W, N, A, d]."""
    values: Tensor
    """[B, W, N, A, d]"""
    ages: Tensor
    """Frames from each to the first query frame [B, W]."""
    filled: Tensor
    """bool [B, W]"""

    @property
    def reach(self) -> int:
        """How many frames back may be seen, W."""
        return self.keys.shape[1]


class Projection(nn.Module):
    """Queries, keys and values with RMS-normalised queries and keys (QK-norm), and the way back out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] to three of [..., A, d]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype), v


def over_space(proj: Projection, x: Tensor, turn: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, T, N, D]: a token sees its own frame as ``mask`` [N, N] allows; ``turn`` [N, d / 2]."""
    q, k, v = (part.transpose(-2, -3) for part in proj(x))
    return proj.out(attend(rotate(q, turn), rotate(k, turn), v, mask).transpose(-2, -3).flatten(-2))


def over_time(proj: Projection, x: Tensor, past: PastKeys | None) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, T, N, D]: every token sees itself at earlier frames, cached ones included.

    Returns the result and this call's raw keys and values [B, T, N, A, d].
    """
    q, k, v = proj(x)
    frames = x.shape[1]
    now = torch.arange(frames, device=x.device)
    age = (now[:, None] - now).expand(len(x), frames, frames)
    seen = (age >= 0) & (age <= past.reach) if past is not None else age >= 0
    keys, values = k, v
    if past is not None:
        keys, values = torch.cat([past.keys.to(k.dtype), k], 1), torch.cat([past.values.to(v.dtype), v], 1)
        before = past.ages[:, None] + now[:, None]
        age = torch.cat([before, age], -1)
        seen = torch.cat([past.filled[:, None].expand_as(before), seen], -1)
    return proj.out(_by_age(q, keys, values, age, seen)), k, v


def _by_age(q: Tensor, k: Tensor, v: Tensor, age: Tensor, seen: Tensor) -> Tensor:
    """q [B, T, N, A, d] over k, v [B, S, N, A, d] with ``age`` and ``seen`` [B, T, S] -> [B, T, N, D].

    Times count from the last query frame: keys are turned by their age then, queries by theirs.
    """
    q = _turned(q, age[:, :, -1] - age[:, -1:, -1])
    k = _turned(k, -age[:, -1])
    q, k, v = (part.permute(0, 2, 3, 1, 4) for part in (q, k, v))
    out = attend(q, k, v, seen[:, None, None])
    return out.permute(0, 3, 1, 2, 4).flatten(-2)


def _turned(x: Tensor, time: Tensor) -> Tensor:
    """x [B, S, N, A, d] with its channels turned by ``time`` [B, S] in frames."""
    return rotate(x, angles(time[..., None], (x.shape[-1],))[:, :, None, None])


class Block(nn.Module):
    """Space, time (in some blocks) and channels."""

    def __init__(self, width: int, heads: int, temporal: bool) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.space = Projection(width, heads)
        self.time = Projection(width, heads) if temporal else None
        hidden = -(-width * 8 // 3 // 32) * 32
        self.gate_up, self.down = (
            nn.Linear(width, 2 * hidden, bias=False),
            nn.Linear(hidden, width, bias=False),
        )
        self.modulate = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self, x: Tensor, condition: Tensor, turn: Tensor, mask: Tensor | None, past: PastKeys | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """x [B, T, N, D], condition [B, T, D] to the shape of x, and this call's raw keys and values."""
        parts = self.modulate(F.silu(condition))[:, :, None].chunk(9, -1)
        scale, shift, share = parts[:3]
        x = x + share * over_space(self.space, self.norm(x) * (1 + scale) + shift, turn, mask)
        fresh = None
        if self.time is not None:
            scale, shift, share = parts[3:6]
            moved, keys, values = over_time(self.time, self.norm(x) * (1 + scale) + shift, past)
            x, fresh = x + share * moved, (keys, values)
        scale, shift, share = parts[6:]
        gate, up = self.gate_up(self.norm(x) * (1 + scale) + shift).chunk(2, -1)
        return x + share * self.down(F.silu(gate) * up), fresh
