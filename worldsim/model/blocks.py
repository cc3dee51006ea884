"""One block: attention over the frame, over the past, SwiGLU; each modulated and gated (adaLN-zero).

Shapes: B batch, T frames, N tokens, D width, A heads, d = D / A, W cached frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.model.attention import attend
from worldsim.model.cache import PastKeys
from worldsim.model.rope import rotate, turns

_EPSILON = 2.0**-7
"""Added to the mean square of a query or key: the rounding of the bfloat16 that it comes in."""
_TINY = 2.0**-23
"""Added to the mean square of a token, which is float32."""


def rms(x: Tensor, epsilon: float) -> Tensor:
    """x [..., D] at a mean square of 1: five operations, where torch's own takes twice the time on a CPU."""
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


class Projection(nn.Module):
    """Queries, keys and values with RMS-normalised queries and keys (QK-norm), and the way back out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] to three of [..., A, d], float32: casting small heads costs more than it saves."""
        qkv = self.qkv(x).float().unflatten(-1, (3, self.heads, -1))
        qk, v = qkv[..., :2, :, :], qkv[..., 2, :, :]
        scale = torch.stack([self.norm_q.weight, self.norm_k.weight])[:, None]
        qk = rms(qk, _EPSILON) * scale
        return qk[..., 0, :, :], qk[..., 1, :, :], v


def over_space(proj: Projection, x: Tensor, turn: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, T, N, D]: a token sees its own frame as ``mask`` [N, N] allows; ``turn`` complex [N, d / 2]."""
    q, k, v = proj(x)
    q, k = rotate(q, turn[:, None]), rotate(k, turn[:, None])
    q, k, v = (part.transpose(-2, -3) for part in (q, k, v))
    return proj.out(attend(q, k, v, mask).transpose(-2, -3).flatten(-2))


def over_clip(proj: Projection, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, T, N, D]: every token sees itself at this and earlier frames of the clip.

    Returns the result and the raw keys and values [B, T, N, A, d].
    """
    q, k, v = proj(x)
    time = torch.arange(x.shape[1], device=x.device)
    turn = turns(time[:, None], (q.shape[-1],))[:, None, None]
    turned = (rotate(q, turn), rotate(k, turn), v)
    query, key, value = (part.permute(0, 2, 3, 1, 4) for part in turned)
    out = attend(query, key, value, time[:, None] >= time)
    return proj.out(out.permute(0, 3, 1, 2, 4).flatten(-2)), k, v


def over_cache(proj: Projection, x: Tensor, past: PastKeys) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, 1, N, D]: every token sees itself now and in the cached frames; age 0 is not turned at all.

    One query a token: products and sums take less time than a batch of tiny matmuls and the copies they need.
    Returns the result and this frame's raw keys and values [B, 1, N, A, d].
    """
    q, k, v = proj(x)
    q = q * q.shape[-1] ** -0.5
    before = (q * past.keys).sum(-1).masked_fill(~past.filled[:, :, None, None], -torch.inf)
    weight = torch.softmax(torch.cat([before, (q * k).sum(-1)], 1), 1)[..., None]
    out = (weight[:, :-1] * past.values).sum(1, keepdim=True) + weight[:, -1:] * v
    return proj.out(out.flatten(-2)), k, v


class Block(nn.Module):
    """Space, time (in some blocks) and channels."""

    def __init__(self, width: int, heads: int, temporal: bool) -> None:
        super().__init__()
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
        x = x + share * over_space(self.space, rms(x, _TINY) * (1 + scale) + shift, turn, mask)
        fresh = None
        if self.time is not None:
            scale, shift, share = parts[3:6]
            normed = rms(x, _TINY) * (1 + scale) + shift
            looked = over_clip(self.time, normed) if past is None else over_cache(self.time, normed, past)
            moved, keys, values = looked
            x, fresh = x + share * moved, (keys, values)
        scale, shift, share = parts[6:]
        gate, up = self.gate_up(rms(x, _TINY) * (1 + scale) + shift).chunk(2, -1)
        return x + share * self.down(F.silu(gate) * up), fresh
