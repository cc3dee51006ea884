"""The noise of ``worldsim.sampling.noise`` drawn where the networks are, for all worlds of a batch at once.

The same bits as NumPy's Philox4x64-10, worked out in wrapping int64; made normal in float64 and rounded to
float32, so that a number may differ from the host's in its last bit.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

_ROUNDS = 10
_FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_BUMPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW = 0xFFFFFFFF


def signed(number: int) -> int:
    """A number modulo 2**64 as the int64 of the same bits."""
    return (number + 2**63) % 2**64 - 2**63


def normal_rows(seeds: Tensor, indices: Tensor, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normals, float32 [B, *shape]; row i belongs to (seeds[i], indices[i]), both int64 [B]."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    bits = _bits(seeds, indices, draw, 2 * pairs)
    uniform = (((bits >> 11) & (2**53 - 1)).double() + 0.5) * 2.0**-53
    radius, angle = (-2 * uniform[:, :pairs].log()).sqrt(), uniform[:, pairs:] * (2 * math.pi)
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    return both[:, :count].float().unflatten(1, shape)


def _bits(seeds: Tensor, indices: Tensor, draw: int, count: int) -> Tensor:
    """64 random bits as int64 [B, count], four from each value of the counter."""
    blocks = -(-count // 4)
    factors, bumps = _constants(seeds.device)
    keys = torch.stack([seeds, torch.full_like(seeds, signed(draw))])[None, :, :, None] + bumps
    number = torch.arange(1, blocks + 1, device=seeds.device).expand(len(seeds), -1)
    even = torch.stack([number, indices[:, None].expand_as(number)])  # the counter's words 0 and 2
    odd = torch.zeros_like(even)  # 1 and 3
    for key in keys:
        high = _high(even, factors)
        even, odd = high.flip(0) ^ odd ^ key, (even * factors).flip(0)
    words = torch.stack([even[0], odd[0], even[1], odd[1]], -1)
    return words.flatten(1)[:, :count]


def _high(x: Tensor, y: Tensor) -> Tensor:
    """The upper 64 of the 128 bits of a product of unsigned numbers."""
    x_low, x_high, y_low, y_high = x & _LOW, _upper(x), y & _LOW, _upper(y)
    middle = x_low * y_high + _upper(x_low * y_low)
    return x_high * y_high + _upper(middle) + _upper(x_high * y_low + (middle & _LOW))


def _upper(x: Tensor) -> Tensor:
    return (x >> 32) & _LOW


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """The factors [2, 1, 1], and what is added to the key in each round [rounds, 2, 1, 1]."""
    with torch.inference_mode(False):
        factors = torch.tensor([signed(factor) for factor in _FACTORS], device=device)
        bumps = [[signed(turn * bump) for bump in _BUMPS] for turn in range(_ROUNDS)]
        return factors[:, None, None], torch.tensor(bumps, device=device)[:, :, None, None]
