"""One block: attention over the frame and the past and SwiGLU side by side, modulated and gated (adaLN-zero).

Side by side (GPT-J, PaLM, ViT-22B) they share one norm, one matmul in and one out. On a CPU, where a frame's
matmuls are small, that halves the time of a pass against one after another.

Shapes: B batch, T frames, N tokens, D width, A heads, d = D / A, W cached frames, F hidden channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.kernels.generator import BlockWeights
from worldsim.model.attention import attend
from worldsim.model.cache import LayerKV
from worldsim.model.rope import apply_rope, rope_frequencies

Direction = Literal["forward", "backward", "full"]
"""Units that a token sees beside its own: earlier ones, later ones, all."""

_QK_EPS = 2.0**-7
"""Added to the mean square of a query or key: the rounding of the bfloat16 that it comes in."""
RMS_EPS = 2.0**-23
"""Added to the mean square of a token, which is float32."""


def rms(x: Tensor, epsilon: float) -> Tensor:
    """x [..., D] at a mean square of 1: five operations, where torch's own takes twice the time on a CPU."""
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def spatial_attention(qk: Tensor, v: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
    """qk [B, T, N, 2, A, d], v [B, T, N, A, d]: a token sees its own unit as ``mask`` [N, N] allows.

    ``rope`` is complex [N, d / 2].
    """
    q, k = apply_rope(qk, rope[:, None, None]).unbind(-3)
    return _attend_tokens(q, k, v, mask)


def _attend_tokens(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of tokens q [B, T, N, A, d] over k and v [B, T, M, A, d], M tokens of the same unit."""
    q, k, v = (part.transpose(-2, -3) for part in (q, k, v))
    return attend(q, k, v, mask).transpose(-2, -3)


def temporal_attention(qk: Tensor, v: Tensor, frames: int = 1, direction: Direction = "forward") -> Tensor:
    """Attention over the units of a clip, place by place; shapes as of ``spatial_attention``.

    A token sees itself, and the tokens at its place in the units that ``direction`` allows. Units of several
    ``frames`` have a place in each of them: tokens are frame-major, N = frames x places. The frames of its
    own unit are for ``spatial_attention``, which knows what a token may see of them.
    """
    units = v.shape[1]
    qk, v = (_by_place(part, frames) for part in (qk, v))
    time = torch.arange(units * frames, device=v.device)
    rope = rope_frequencies(time[:, None], (v.shape[-1],))[:, None, None, None]
    rotated = (*apply_rope(qk, rope).unbind(-3), v)
    query, key, value = (part.permute(0, 2, 3, 1, 4) for part in rotated)
    mask = _visible(time, time // frames, direction)
    return _by_unit(attend(query, key, value, mask).permute(0, 3, 1, 2, 4), frames)


def _by_place(x: Tensor, frames: int) -> Tensor:
    """Tokens of units [B, T, F S, ...] as frames of places [B, T F, S, ...]."""
    return x if frames == 1 else x.unflatten(2, (frames, -1)).flatten(1, 2)


def _by_unit(x: Tensor, frames: int) -> Tensor:
    """The inverse of ``_by_place``."""
    return x if frames == 1 else x.unflatten(1, (-1, frames)).flatten(2, 3)


def _visible(time: Tensor, unit: Tensor, direction: Direction) -> Tensor:
    """Frames that a frame's tokens see, bool [T F, T F]: their own, and those of other units."""
    own = time[:, None] == time
    if direction == "full":
        return own | (unit[:, None] != unit)
    return own | (unit[:, None] > unit if direction == "forward" else unit[:, None] < unit)


@dataclass(frozen=True, slots=True)
class UnitTime:
    """Frames and places of a unit's tokens, for attention to past units."""

    frames: int
    """Frames of a unit, F."""
    tokens: int
    """Tokens of all frames, frame-major, F S; a unit's registers come after them."""
    registers: int
    """Tokens at the end that see their own past alone."""
    places: Tensor
    """Place of each token within its frame, int64 [n], without the registers."""
    rope: Tensor | None
    """Rotation of each query by its frame, complex [n, d / 2]; None where units have one frame."""

    def past(self, part: Tensor) -> Tensor:
        """Keys or values of past units [B, W, F S (+ R), A, d] at the places [B, W F, n, A, d]."""
        if self.frames > 1:
            part = part[:, :, : self.tokens].unflatten(2, (self.frames, -1)).flatten(1, 2)
        return part[:, :, self.places]


def cached_attention(qk: Tensor, v: Tensor, past: LayerKV, time: UnitTime | None = None) -> Tensor:
    """As ``temporal_attention`` with T = 1: a token sees itself, without rotation, and its cached past.

    ``time`` is None where the queries are all of a unit's tokens and units have one frame.
    One query a token: products and sums take less time than a batch of tiny matmuls and the copies they need.
    The softmax is over the last axis: over another, threads share what it runs along, and round otherwise
    where their shares end.
    """
    if time is not None and time.registers:
        return _cached_with_registers(qk, v, past, time)
    q, k = qk.unbind(-3)
    q = q * q.shape[-1] ** -0.5
    turned, keys, values, filled = q, past.keys, past.values, past.filled
    if time is not None:
        keys, values = time.past(keys), time.past(values)
        filled = filled.repeat_interleave(time.frames, 1)
        turned = q if time.rope is None else apply_rope(q, time.rope[:, None])
    before = (turned * keys).sum(-1).masked_fill(~filled[:, :, None, None], -torch.inf)
    scores = torch.cat([before, (q * k).sum(-1)], 1)
    weight = torch.softmax(scores.movedim(1, -1).contiguous(), -1).movedim(-1, 1)[..., None]
    return (weight[:, :-1] * values).sum(1, keepdim=True) + weight[:, -1:] * v


def _cached_with_registers(qk: Tensor, v: Tensor, past: LayerKV, time: UnitTime) -> Tensor:
    """``cached_attention`` of the tokens of frames, then of the registers."""
    sizes = [v.shape[2] - time.registers, time.registers]
    (qk, of_registers), (v, own) = qk.split(sizes, 2), v.split(sizes, 2)
    keys, registers_keys = past.keys.split(sizes, 2)
    values, registers_values = past.values.split(sizes, 2)
    made = cached_attention(qk, v, LayerKV(keys, values, past.filled), replace(time, registers=0))
    rest = cached_attention(of_registers, own, LayerKV(registers_keys, registers_values, past.filled))
    return torch.cat([made, rest], 2)


@dataclass(frozen=True, slots=True)
class PartView:
    """The tokens of a unit that one pass predicts, and what they see of the unit."""

    tokens: Tensor
    """Numbers of the tokens, int64 [n]."""
    rope: Tensor
    """Rotations of their spatial queries and keys, complex [n, d / 2]."""
    mask: Tensor | None
    """Tokens of earlier passes, pass after pass, and their own, bool [n, m + n]; None: all are seen."""
    time: UnitTime


@dataclass(slots=True)
class HeldKV:
    """Keys and values of one block for the tokens of a unit that are drawn already."""

    keys: Tensor | None = None
    """Rotated keys [B, 1, m, A, d]; None before the first."""
    values: Tensor | None = None

    def before(self, fresh: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of the held tokens, then ``fresh`` ones."""
        if self.keys is None or self.values is None:
            return fresh
        return torch.cat([self.keys, fresh[0]], 2), torch.cat([self.values, fresh[1]], 2)

    def extend(self, fresh: tuple[Tensor, Tensor]) -> None:
        """Hold ``fresh`` keys and values, too."""
        self.keys, self.values = self.before(fresh)


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
        self,
        x: Tensor,
        modulation: Tensor,
        rope: Tensor,
        mask: Tensor | None,
        past: LayerKV | None,
        time: UnitTime | None = None,
        direction: Direction = "forward",
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """x [B, T, N, D] to the shape of x, and this call's raw keys and values.

        ``modulation`` is [B, T, 3, D], or one for each token [B, T, N, 3, D]; ``time`` is None where units
        have one frame. Without a ``past`` the units are a clip, seen in ``direction``.
        """
        qk, v, gate, up = self._project(x, modulation)
        parts, fresh = [spatial_attention(qk[..., :2, :, :], v[..., 0, :, :], rope, mask)], None
        if self.temporal:
            qk, v = qk[..., 2:, :, :], v[..., 1, :, :]
            if past is None:
                parts.append(_over_clip(qk, v, time, direction))
            else:
                parts.append(cached_attention(qk, v, past, time))
            fresh = qk[..., 1, :, :], v
        return self._merge(x, modulation, parts, gate, up), fresh

    def part(
        self, x: Tensor, modulation: Tensor, view: PartView, past: LayerKV | None, held: HeldKV
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``forward`` for some tokens of one unit, x [B, 1, n, D], after those that ``held`` has.

        Returns the shape of x, and the tokens' keys and values within the unit [B, 1, n, A, d], keys rotated.
        """
        qk, v, gate, up = self._project(x, modulation)
        q, k = apply_rope(qk[..., :2, :, :], view.rope[:, None, None]).unbind(-3)
        own = k, v[..., 0, :, :]
        parts = [_attend_tokens(q, *held.before(own), view.mask)]
        if past is not None:
            parts.append(cached_attention(qk[..., 2:, :, :], v[..., 1, :, :], past, view.time))
        return self._merge(x, modulation, parts, gate, up), own

    def _project(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normed queries and keys [..., 2 or 4, A, d], values [..., 1 or 2, A, d], SwiGLU's two halves."""
        qkv, gate, up = self.in_proj(self._normed(x, modulation)).split(self.sizes, -1)
        # float32: casting small heads costs more than it saves
        qkv = qkv.float().unflatten(-1, (-1, self.heads, self.qk_norm.shape[-1]))
        qk, v = qkv.split([len(self.qk_norm), len(self.qk_norm) // 2], -3)
        return rms(qk, _QK_EPS) * self.qk_norm, v, gate, up

    def _merge(self, x: Tensor, modulation: Tensor, parts: list[Tensor], gate: Tensor, up: Tensor) -> Tensor:
        """x plus what attention and SwiGLU add to it."""
        mixed = [part.flatten(-2).to(up.dtype) for part in parts]
        out = self.out_proj(torch.cat([*mixed, F.silu(gate) * up], -1)).float()
        return torch.addcmul(x, _per_token(modulation)[..., 2, :], out)

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
        scale, shift = _per_token(modulation)[..., :2, :].unbind(-2)
        return torch.addcmul(shift, rms(x, RMS_EPS), scale).to(self.in_proj.weight.dtype)


def _per_token(modulation: Tensor) -> Tensor:
    """Modulation [B, T, 3, D] of whole units with an axis of one for their tokens; others as they are."""
    return modulation[:, :, None] if modulation.ndim == 4 else modulation


def _over_clip(qk: Tensor, v: Tensor, time: UnitTime | None, direction: Direction) -> Tensor:
    """``temporal_attention``, in which registers see their own past only."""
    if time is None or time.frames == 1:
        return temporal_attention(qk, v, 1, direction)
    sizes = [v.shape[2] - time.registers, time.registers]
    parts = zip(qk.split(sizes, 2), v.split(sizes, 2), (time.frames, 1), strict=True)
    return torch.cat([temporal_attention(*part, direction) for part in parts], 2)
