"""A block of the next-scale generator: attention over the context and a feed-forward layer.

Shapes: B batch, T frames, N tokens, n tokens of a pass, G tokens of the finest scale, C bits of a token, D
width, L layers, W frames of context, A heads, d channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.model.attention import reference
from worldsim.model.blocks import RMS_EPS, rms
from worldsim.model.rope import apply_rope

_QK_EPS = 2.0**-7
"""Added to the mean square of a query or key."""


class ScaleBlock(nn.Module):
    """Attention over the past and the coarser scales, and SwiGLU, side by side behind one modulated norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = -(-width * 8 // 3 // 32) * 32
        self.heads, self.sizes = heads, (3 * width, hidden, hidden)
        self.in_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.out_proj = nn.Linear(width + hidden, width, bias=False)
        self.qk_norm = nn.Parameter(torch.ones(2, width // heads))

    def clip(self, x: Tensor, modulation: Tensor, rope: Tensor, context: int, seen: Tensor) -> Tensor:
        """x [B, T, N, D] to the same shape; ``seen`` [T or B T, 1, N, W N] masks the window of each frame."""
        batch, length = x.shape[:2]
        (q, k, v), up = self._inputs(x, modulation[:, :, :, None])
        q, k = (apply_rope(part, rope[:, :, None]) for part in (q, k))
        narrow = _attended_type(k)  # before windows are made, each of which is a copy
        wide = [_windows(part.to(narrow), context) for part in (k, v)]
        q, k, v = (heads_first(part.flatten(0, 1)) for part in (q, *wide))
        mask = seen if len(seen) == batch * length else seen.repeat(batch, 1, 1, 1)
        mixed = _attended(q, k, v, mask).transpose(1, 2).flatten(-2).unflatten(0, (batch, length))
        return self._added(x, mixed, up, modulation[:, :, 2, None])

    def step(
        self,
        x: Tensor,
        modulation: Tensor,
        rope: Tensor,
        past: tuple[Tensor, Tensor],
        before: tuple[Tensor, Tensor],
        seen: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``clip`` for some tokens x [B, n, D] of one frame.

        Args:
            x: the tokens' inputs.
            modulation: [B, 3, D].
            rope: rotations of all tokens of the frame so far.
            past: rotated keys and values of the frames before [B, A, (W - 1) N, d].
            before: raw keys and values of the frame's tokens before these [B, m, A, d].
            seen: bool [B, 1, n, (W - 1) N + m + n].

        Returns:
            The tokens, and raw keys and values of the frame's tokens so far.
        """
        (q, k, v), up = self._inputs(x, modulation[:, :, None])
        if before[0].numel():
            k, v = torch.cat([before[0], k], 1), torch.cat([before[1], v], 1)
        turned = apply_rope(k, rope[:, None])
        q = apply_rope(q, rope[len(rope) - x.shape[1] :, None])
        keys = torch.cat([past[0], heads_first(turned)], 2)
        values = torch.cat([past[1], heads_first(v)], 2)
        mixed = reference(heads_first(q), keys, values, seen).transpose(1, 2).flatten(-2)
        return self._added(x, mixed, up, modulation[:, 2, None]), k, v

    def _inputs(self, x: Tensor, modulation: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Queries, keys and values [..., n, A, d], float32, and the hidden channels of the MLP."""
        scale, shift = modulation.unbind(-3)[:2]
        normed = torch.addcmul(shift, rms(x, RMS_EPS), scale).to(self.in_proj.weight.dtype)
        qkv, gate, up = self.in_proj(normed).split(self.sizes, -1)
        q, k, v = qkv.float().unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k = rms(q, _QK_EPS) * self.qk_norm[0], rms(k, _QK_EPS) * self.qk_norm[1]
        return (q, k, v), F.silu(gate) * up

    def _added(self, x: Tensor, mixed: Tensor, up: Tensor, gate: Tensor) -> Tensor:
        return torch.addcmul(x, gate, self.out_proj(torch.cat([mixed.to(up.dtype), up], -1)).float())


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As ``reference``; in bfloat16 where autocast asks for it, with the fewest passes over the scores."""
    device, dtype = q.device.type, _attended_type(q)
    if not torch.is_autocast_enabled(device):
        return reference(q, k, v, mask)
    with torch.autocast(device, enabled=False):
        bias = torch.zeros(mask.shape, dtype=dtype, device=q.device).masked_fill_(~mask, -1e4)
        q, k, v = (q * q.shape[-1] ** -0.5).to(dtype), k.to(dtype), v.to(dtype)
        return torch.softmax((q @ k.transpose(-1, -2)) + bias, -1) @ v


def _attended_type(x: Tensor) -> torch.dtype:
    """Number type of ``_attended``: that of autocast, else that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def heads_first(x: Tensor) -> Tensor:
    """[B, n, A, d] to [B, A, n, d]."""
    return x.transpose(1, 2)


def _windows(x: Tensor, context: int) -> Tensor:
    """``x`` [B, T, N, A, d] with the frames before each one put before its tokens [B, T, W N, A, d]."""
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, context - 1, 0))
    length = x.shape[1]
    return torch.cat([padded[:, start : start + length] for start in range(context)], 2)


def shifted(x: Tensor, frames: int) -> Tensor:
    """``x`` [B, T, ...] later by some frames; zeros come first."""
    kept = x[:, : max(0, x.shape[1] - frames)]
    return torch.cat([torch.zeros_like(x[:, : x.shape[1] - kept.shape[1]]), kept], 1)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [R, n, C] times ``weight`` [C, D], every row alone: its bits must not hang on the batch."""
    if torch.is_grad_enabled():
        return x @ weight
    return torch.bmm(x, weight.expand(len(x), -1, -1))


def window_mask(own: Tensor, context: int, length: int, frame_mask: Tensor | None) -> Tensor:
    """Return the tokens of its window that a token sees, bool [T or B T, 1, N, W N].

    ``own`` bool [N, N] is that of its own frame; ``frame_mask`` bool [B, T, W - 1] drops frames before.
    """
    count, tokens = context - 1, len(own)
    time = torch.arange(length, device=own.device)
    slot = torch.arange(count, device=own.device)
    exists = slot >= count - time[:, None]
    if frame_mask is not None:
        exists = (exists & frame_mask).flatten(0, 1)
    past = exists.repeat_interleave(tokens, -1)[:, None].expand(-1, tokens, -1)
    return torch.cat([past, own.expand(len(past), -1, -1)], -1)[:, None]
