"""Rotary positions over any number of axes (RoFormer; as in FLUX, each turns its own share of a head)."""

from __future__ import annotations

import torch
from torch import Tensor


def angles(positions: Tensor, dims: tuple[int, ...], base: float = 100.0) -> Tensor:
    """Angles [..., sum(dims) / 2] for ``positions`` [..., axes]; ``dims[i]`` channels turn with axis i."""
    parts = []
    for axis, dim in enumerate(dims):
        rates = base ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
        parts.append(positions[..., axis, None].float() * rates)
    return torch.cat(parts, -1)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn channel pairs of ``x`` [..., d] by ``angle`` [..., d / 2] (broadcast)."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    sin, cos = angle.sin(), angle.cos()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)
