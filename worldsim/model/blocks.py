"""One block: attention over the frame and the past and SwiGLU side by side, modulated and gated (adaLN-zero).

Side by side (GPT-J, PaLM, ViT-22B) they share one norm, one matmul in and one out. On a CPU, where a frame's
matmuls are small, that halves the time of a pass against one after another.

Shapes: B batch, T frames, N tokens, D width, A heads, d = D / A, W cached frames, F hidden channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.kernels.generator import BlockWeights
from worldsim.model.attention import attend
from worldsim.model.cache import LayerKV
from worldsim.model.rope import apply_rope, rope_frequencies

_QK_EPS = 2.0**-7
"""Added to the mean square of a query or key: the rounding of the bfloat16 that it comes in."""
RMS_EPS = 2.0**-23
"""Added to the mean square of a token, which is float32."""


def rms(x: Tensor, epsilon: float) -> Tensor:
    """x [..., D] at a mean square of 1: five operations, where torch's own takes twice the time on a CPU."""
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def spatial_attention(qk: Tensor, v: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
    """qk [B, T, N, 2, A, d], v [B, T, N, A, d]: a token sees its own frame as ``mask`` [N, N] allows.

    ``rope`` is complex [N, d / 2].
    """
    q, k = apply_rope(qk, rope[:, None, None]).unbind(-3)
    q, k, v = (part.transpose(-2, -3) for part in (q, k, v))
    return attend(q, k, v, mask).transpose(-2, -3)


def temporal_attention(qk: Tensor, v: Tensor) -> Tensor:
    """As ``spatial_attention``, but every token sees itself at this and earlier frames of the clip."""
    time = torch.arange(v.shape[1], device=v.device)
    rope = rope_frequencies(time[:, None], (v.shape[-1],))[:, None, None, None]
    rotated = (*apply_rope(qk, rope).unbind(-3), v)
    query, key, value = (part.permute(0, 2, 3, 1, 4) for part in rotated)
    return attend(query, key, value, time[:, None] >= time).permute(0, 3, 1, 2, 4)


def cached_attention(qk: Tensor, v: Tensor, past: LayerKV) -> Tensor:
    """As ``temporal_attention`` with T = 1: a token sees itself, without rotation, and its cached past.

    One query a token: products and sums take less time than a batch of tiny matmuls and the copies they need.
    The softmax is over the last axis: over another, threads share what it runs along, and round otherwise
    where their shares end.
    """
    q, k = qk.unbind(-3)
    q = q * q.shape[-1] ** -0.5
    before = (q * past.keys).sum(-1).masked_fill(~past.filled[:, :, None, None], -torch.inf)
    scores = torch.cat([before, (q * k).sum(-1)], 1)
    weight = torch.softmax(scores.movedim(1, -1).contiguous(), -1).movedim(-1, 1)[..., None]
    return (weight[:, :-1] * past.values).sum(1, keepdim=True) + weight[:, -1:] * v


class Block(nn.Module):
    """Space, time (in some blocks) and channels, with RMS-normalised queries and keys (QK-norm)."""

    def __init__(self, width: int, heads: int, temporal: bool) -> None:
        super().__init__()
        self.heads, self.temporal = heads, temporal
        attentions, hidden = 1 + temporal, -(-width * 8 // 3 // 32) * 32
        self.sizes = (3 * attentions * width, hidden, hidden)
        self.in_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.out_proj = nn.Linear(attentions * width + hidden, width, bias=False)
        self.qk_norm = nn.Parameter(torch.ones(2 * attentions, 1, width // heads))

    def forward(
        self, x: Tensor, modulation: Tensor, rope: Tensor, mask: Tensor | None, past: LayerKV | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """x [B, T, N, D], modulation [B, T, 3, D] to the shape of x, and this call's raw keys and values."""
        residual_gate = modulation[:, :, None, 2]
        qkv, gate, up = self.in_proj(self._normed(x, modulation)).split(self.sizes, -1)
        # float32: casting small heads costs more than it saves
        qkv = qkv.float().unflatten(-1, (-1, self.heads, self.qk_norm.shape[-1]))
        qk, v = qkv.split([len(self.qk_norm), len(self.qk_norm) // 2], -3)
        qk = rms(qk, _QK_EPS) * self.qk_norm
        parts, fresh = [spatial_attention(qk[..., :2, :, :], v[..., 0, :, :], rope, mask)], None
        if self.temporal:
            qk, v = qk[..., 2:, :, :], v[..., 1, :, :]
            parts.append(temporal_attention(qk, v) if past is None else cached_attention(qk, v, past))
            fresh = qk[..., 1, :, :], v
        mixed = [part.flatten(-2).to(up.dtype) for part in parts]
        return torch.addcmul(
            x, residual_gate, self.out_proj(torch.cat([*mixed, F.silu(gate) * up], -1)).float()
        ), fresh

    def packed(self) -> BlockWeights:
        """The weights for kernels."""
        attentions = len(self.qk_norm) // 2
        return BlockWeights(
            self.in_proj.weight, self.out_proj.weight, self.qk_norm[:, 0], attentions, self.sizes[1]
        )

    def compute_kv(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """The raw keys and values that ``forward`` of a temporal block gives, and nothing else."""
        normed, groups = self._normed(x, modulation), self.in_proj.weight[: self.sizes[0]]
        groups = groups.unflatten(0, (-1, self.heads, self.qk_norm.shape[-1]))
        last_key, last_value = groups[len(self.qk_norm) - 1].flatten(0, 1), groups[-1].flatten(0, 1)
        keys, values = (
            F.linear(normed, of).float().unflatten(-1, (self.heads, -1)) for of in (last_key, last_value)
        )
        return rms(keys, _QK_EPS) * self.qk_norm[-1], values

    def _normed(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation[:, :, None, :2].unbind(3)
        return torch.addcmul(shift, rms(x, RMS_EPS), scale).to(self.in_proj.weight.dtype)
