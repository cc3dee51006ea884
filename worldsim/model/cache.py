"""The context: a ring of past frames' raw keys and values, with sink frames that are never overwritten.

Shapes: L temporal layers, B batch, W frames held, N tokens, A heads, d channels of a head.
Keys are raw: their rotation depends on their age, which changes every frame, so it is applied on read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldsim.model.rope import rotate, turns


@dataclass(frozen=True, slots=True)
class PastKeys:
    """One layer's share of the cache, ready to be looked at from the next frame."""

    keys: Tensor
    """Keys, turned by their age, float32 [B, W, N, A, d]."""
    values: Tensor
    """float32 [B, W, N, A, d]"""
    filled: Tensor
    """bool [B, W]"""


@dataclass(slots=True)
class Cache:
    """Past keys and values of every temporal layer, and when each was written."""

    keys: Tensor
    """[L, B, W, N, A, d]"""
    values: Tensor
    """[L, B, W, N, A, d]"""
    written: Tensor
    """Frame index held in each place [B, W]; -1 while empty."""
    index: Tensor
    """Frames written so far [B]."""
    sinks: int
    """How many of the first frames stay for good."""
    _past: list[PastKeys] | None = field(default=None, repr=False)
    """What ``read`` gave, until something is written."""

    @staticmethod
    def empty(
        *, layers: int, batch: int, frames: int, tokens: int, heads: int, dim: int, sinks: int, like: Tensor
    ) -> Cache:
        """A cache with nothing in it, of the type and on the device of ``like``."""
        shape = (layers, batch, frames, tokens, heads, dim)
        return Cache(
            keys=like.new_zeros(shape),
            values=like.new_zeros(shape),
            written=torch.full((batch, frames), -1, device=like.device),
            index=torch.zeros(batch, dtype=torch.long, device=like.device),
            sinks=sinks,
        )

    @property
    def frames(self) -> int:
        """Frames that can be held, W."""
        return self.written.shape[1]

    def read(self) -> list[PastKeys]:
        """Every layer's past. The keys are turned once a frame, however many passes read them.

        Ages end at the ring's length, so that a sink keeps a position that training has seen.
        """
        if self._past is None:
            age = (self.index[:, None] - self.written).clamp(max=self.frames)
            turn = turns(-age[..., None], (self.keys.shape[-1],))
            turned = rotate(self.keys, turn[:, :, None, None])
            filled = self.written >= 0
            layers = zip(turned, self.values.float(), strict=True)
            self._past = [PastKeys(keys, values, filled) for keys, values in layers]
        return self._past

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Append one clean frame: ``keys`` and ``values`` [L, B, N, A, d]."""
        ring = self.frames - self.sinks
        place = torch.where(
            self.index < self.frames, self.index, self.sinks + (self.index - self.sinks) % ring
        )
        rows = torch.arange(len(place), device=place.device)
        self.keys[:, rows, place] = keys.to(self.keys.dtype)
        self.values[:, rows, place] = values.to(self.values.dtype)
        self.written[rows, place] = self.index
        self.index += 1
        self._past = None

    def pick(self, rows: Tensor) -> Cache:
        """A copy of some batch rows."""
        keys, values = self.keys[:, rows], self.values[:, rows]
        return Cache(keys, values, self.written[rows], self.index[rows], self.sinks)

    def put(self, rows: Tensor, other: Cache) -> None:
        """Overwrite batch rows with those of ``other``; a single row of ``other`` is repeated."""
        self.keys[:, rows] = other.keys.to(self.keys.dtype)
        self.values[:, rows] = other.values.to(self.values.dtype)
        self.written[rows], self.index[rows] = other.written, other.index
        self._past = None
