"""Keys and values of past frames, as a ``RingState`` holds them.

Shapes: B batch, L layers, W - 1 places, N tokens, D width, A heads, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.model.rope import apply_rope
from worldsim.model.scale_block import heads_first


def ages(units: Tensor, places: int) -> Tensor:
    """Frames between the frame in each place and the next one, from 1 on, int64 [B, W - 1]."""
    place = torch.arange(places, device=units.device)
    return (units[:, None] - 1 - place) % places + 1


def seen_tokens(age: Tensor, units: Tensor, tokens: int) -> Tensor:
    """True for tokens of frames that exist, bool [B, (W - 1) N]."""
    return (age <= units[:, None]).repeat_interleave(tokens, 1)


def rotated(keys: Tensor, values: Tensor, rope: Tensor, heads: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [B, L, W - 1, N, D] as attention reads them, by layer: [B, A, (W - 1) N, d].

    ``rope`` complex [B, W - 1, N, d / 2] turns the keys.
    """
    k, v = (part.unflatten(-1, (heads, -1)) for part in (keys, values))
    turned = apply_rope(k, rope[:, None, :, :, None])
    layers = zip(turned.unbind(1), v.unbind(1), strict=True)
    return [(heads_first(a.flatten(1, 2)), heads_first(b.flatten(1, 2))) for a, b in layers]
