"""One block: attention over the frame, over the past, SwiGLU; each modulated and gated (adaLN-zero).

Shapes: B batch, T frames, N tokens, D width, A heads, d = D / A, W cached frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.model.attention import attend
from worldsim.model.cache import PastKeys
from worldsim.model.rope import angles, rotate


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


def over_clip(proj: Projection, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, T, N, D]: every token sees itself at this and earlier frames of the clip.

    Returns the result and the raw keys and values [B, T, N, A, d].
    """
    q, k, v = proj(x)
    time = torch.arange(x.shape[1], device=x.device)
    turned_q, turned_k = _turned(q, time[None]), _turned(k, time[None])
    out = _across_frames(turned_q, turned_k, v, time[:, None] >= time)
    return proj.out(out), k, v


def over_cache(proj: Projection, x: Tensor, past: PastKeys) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, 1, N, D]: every token sees itself now and in the cached frames; age 0 is not turned at all.

    Returns the result and this frame's raw keys and values [B, 1, N, A, d].
    """
    q, k, v = proj(x)
    keys, values = torch.cat([past.keys.to(k.dtype), k], 1), torch.cat([past.values.to(v.dtype), v], 1)
    seen = F.pad(past.filled, (0, 1), value=True)
    out = _across_frames(q, keys, values, seen[:, None, None, None])
    return proj.out(out), k, v


def _across_frames(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """q [B, T, N, A, d] over k, v [B, S, N, A, d], each token for itself, as ``seen`` [..., T, S] allows.

    Returns [B, T, N, D].
    """
    q, k, v = (part.permute(0, 2, 3, 1, 4) for part in (q, k, v))
    return attend(q, k, v, seen).permute(0, 3, 1, 2, 4).flatten(-2)


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
            normed = self.norm(x) * (1 + scale) + shift
            looked = over_clip(self.time, normed) if past is None else over_cache(self.time, normed, past)
            moved, keys, values = looked
            x, fresh = x + share * moved, (keys, values)
        scale, shift, share = parts[6:]
        gate, up = self.gate_up(self.norm(x) * (1 + scale) + shift).chunk(2, -1)
        return x + share * self.down(F.silu(gate) * up), fresh
