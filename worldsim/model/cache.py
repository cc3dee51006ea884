"""The context: a ring of past frames' raw keys and values, with sink frames that are never overwritten.

Shapes: L temporal layers, B batch, W frames held, N tokens, A heads, d channels of a head.
Keys are raw: their rotation depends on their age, which changes every frame, so it is applied on read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldsim.errors import EngineError
from worldsim.model.rope import apply_rope, rope_frequencies
from worldsim.model.state import Rows, check_tensors, rows_within
from worldsim.utils import buffer_pool


@dataclass(frozen=True, slots=True)
class LayerKV:
    """Keys and values of one layer, ready for the next frame's queries."""

    keys: Tensor
    """Keys, rotated by their age, float32 [B, W, N, A, d]."""
    values: Tensor
    """float32 [B, W, N, A, d]"""
    filled: Tensor
    """bool [B, W]"""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A copy of one ring index of every row: enough to undo a write."""

    ring_index: Tensor
    """[B]"""
    keys: Tensor
    """[L, B, N, A, d]"""
    values: Tensor
    """[L, B, N, A, d]"""
    written: Tensor
    """[B]"""
    index: Tensor
    """[B]"""

    def row(self, number: int) -> CacheEntry:
        """One row, as a view."""
        one = slice(number, number + 1)
        rest = self.written[one], self.index[one]
        return CacheEntry(self.ring_index[one], self.keys[:, one], self.values[:, one], *rest)


@dataclass(slots=True)
class Cache:
    """Past keys and values of every temporal layer, and when each was written."""

    keys: Tensor
    """[L, B, W, N, A, d]"""
    values: Tensor
    """[L, B, W, N, A, d]"""
    written: Tensor
    """Frame index held at each ring index [B, W]; -1 while empty."""
    index: Tensor
    """Frames written so far [B]."""
    sinks: int
    """Number of first frames that are never overwritten."""
    rows: Rows = field(default_factory=lambda: slice(None))
    """Rows of the tensors that this view of the cache reads and writes."""
    unit: tuple[int, int] = (1, 0)
    """Frames of a unit and tokens of each, frame-major, the first of N; one frame: a unit has one time."""
    _layers: list[LayerKV] | None = field(default=None, repr=False)
    """Result of ``read`` until the next write."""

    @staticmethod
    def empty(
        *,
        layers: int,
        batch: int,
        frames: int,
        tokens: int,
        heads: int,
        dim: int,
        sinks: int,
        like: Tensor,
        unit: tuple[int, int] = (1, 0),
    ) -> Cache:
        """A cache with nothing in it, of the type and on the device of ``like``."""
        shape = (layers, batch, frames, tokens, heads, dim)
        return Cache(
            keys=like.new_zeros(shape),
            values=like.new_zeros(shape),
            written=torch.full((batch, frames), -1, device=like.device),
            index=torch.zeros(batch, dtype=torch.long, device=like.device),
            sinks=sinks,
            unit=unit,
        )

    @property
    def context(self) -> int:
        """Frames that can be held, W."""
        return self.written.shape[1]

    @property
    def units(self) -> Tensor:
        return self.index[self.rows]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.tensors().values()) // len(self.tensors()["index"])

    def over(self, rows: Rows) -> Cache:
        """Some rows of this cache, with the same memory underneath: what one writes, the other has."""
        rows = rows_within(rows, self.rows, len(self.index), self.index.device)
        return Cache(self.keys, self.values, self.written, self.index, self.sinks, rows, self.unit)

    def take(self, rows: Rows, other: Cache) -> None:
        """Nothing: ``over`` shares memory."""

    def read(self) -> list[LayerKV]:
        """Every layer's past. The keys are rotated once a frame, however many passes read them.

        Ages end at the ring's length, so that a sink keeps a position that training has seen.
        """
        if self._layers is None:
            written = self.written[self.rows]
            age = (self.index[self.rows][:, None] - written).clamp(max=self.context)
            rope = rope_frequencies(self._times(age)[..., None], (self.keys.shape[-1],))
            rotated = apply_rope(self.keys[:, self.rows], rope[..., None, :])
            layers = zip(rotated, self.values[:, self.rows].float(), strict=True)
            self._layers = [LayerKV(keys, values, written >= 0) for keys, values in layers]
        return self._layers

    def _times(self, age: Tensor) -> Tensor:
        """Time of each token of units of ``age`` [B, W], from the start of the unit to come [B, W, N or 1].

        In frames where units have several, but for registers: they have one time a unit.
        """
        frames, tokens = self.unit
        if frames == 1:
            return -age[..., None]
        frame = torch.arange(frames, device=age.device).repeat_interleave(tokens)
        registers = (-age)[..., None].expand(*age.shape, self.keys.shape[3] - frames * tokens)
        return torch.cat([frame - frames * age[..., None], registers], -1)

    def kernel_layers(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """``read`` for kernels: keys, values and mask of each layer."""
        return [(past.keys, past.values, past.filled) for past in self.read()]

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Append one clean frame: ``keys`` and ``values`` [L, B, N, A, d]."""
        ring_index, numbers = self._next_index(), self._row_numbers()
        self.keys[:, numbers, ring_index] = keys.to(self.keys.dtype)
        self.values[:, numbers, ring_index] = values.to(self.values.dtype)
        self.written[numbers, ring_index] = self.index[self.rows]
        self.index[self.rows] += 1
        self._layers = None

    def undo_entry(self) -> CacheEntry:
        """A copy of what the next write will overwrite."""
        ring_index, numbers = self._next_index(), self._row_numbers()
        keys, values = (buffer_pool.clone(part[:, numbers, ring_index]) for part in (self.keys, self.values))
        index = self.index[self.rows].clone()
        return CacheEntry(ring_index, keys, values, self.written[numbers, ring_index], index)

    def undo(self, entry: CacheEntry) -> None:
        """Make the rows what they were when ``undo_entry()`` gave ``entry``, after one write or none."""
        numbers = self._row_numbers()
        self.keys[:, numbers, entry.ring_index], self.values[:, numbers, entry.ring_index] = (
            entry.keys,
            entry.values,
        )
        self.written[numbers, entry.ring_index] = entry.written
        self.index[self.rows] = entry.index
        self._layers = None

    def pick(self, rows: Rows) -> Cache:
        """A copy of some batch rows."""
        rows = rows_within(rows, self.rows, len(self.index), self.index.device)
        keys, values = self.keys[:, rows].clone(), self.values[:, rows].clone()
        written, index = self.written[rows].clone(), self.index[rows].clone()
        return Cache(keys, values, written, index, self.sinks, unit=self.unit)

    def put(self, rows: Rows, other: Cache) -> None:
        """Overwrite batch rows with those of ``other``; a single row of ``other`` is repeated."""
        self.keys[:, rows] = other.keys.to(self.keys.dtype)
        self.values[:, rows] = other.values.to(self.values.dtype)
        self.written[rows], self.index[rows] = other.written, other.index
        self._layers = None

    def replace(self, mask: Tensor, other: Cache) -> None:
        """Overwrite the batch rows in ``mask``, bool [B], with those of ``other``, which has as many."""
        wide = mask.view(1, -1, 1, 1, 1, 1)
        self.keys.copy_(torch.where(wide, other.keys.to(self.keys.dtype), self.keys))
        self.values.copy_(torch.where(wide, other.values.to(self.values.dtype), self.values))
        self.written.copy_(torch.where(mask[:, None], other.written, self.written))
        self.index.copy_(torch.where(mask, other.index, self.index))
        self._layers = None

    def to(self, device: torch.device) -> Cache:
        """The same on another device."""
        keys, values = self.keys.to(device), self.values.to(device)
        written, index = self.written.to(device), self.index.to(device)
        return Cache(keys, values, written, index, self.sinks, unit=self.unit)

    def tensors(self) -> dict[str, Tensor]:
        """The rows: keys and values [B, L, W, N, A, d], written [B, W], index [B]."""
        keys, values = (part[:, self.rows].transpose(0, 1) for part in (self.keys, self.values))
        return {
            "keys": keys,
            "values": values,
            "written": self.written[self.rows],
            "index": self.index[self.rows],
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        check_tensors(tensors, self.tensors())
        self._check_written(tensors["written"], tensors["index"])
        for mine, name in ((self.keys, "keys"), (self.values, "values")):
            mine[:, self.rows] = tensors[name].transpose(0, 1)
        self.written[self.rows], self.index[self.rows] = tensors["written"], tensors["index"]
        self._layers = None

    def _check_written(self, written: Tensor, index: Tensor) -> None:
        """Each ring index must hold the newest frame that a ring of ``index`` [B] frames puts there."""
        ring_index, ring = torch.arange(self.context, device=index.device), self.context - self.sinks
        newest = ring_index + (index[:, None] - 1 - ring_index) // ring * ring
        newest = torch.where(ring_index < self.sinks, ring_index, newest)
        expected = torch.where(index[:, None] > ring_index, newest, -1)
        if (index < 0).any() or not torch.equal(written, expected):
            rule = "a cache must hold the sinks and the newest frames of its index"
            raise EngineError(rule, (index.tolist(), written.tolist()), "take the snapshot again")

    def _next_index(self) -> Tensor:
        """Ring index of each row's next frame [B]."""
        index, ring = self.index[self.rows], self.context - self.sinks
        return torch.where(index < self.context, index, self.sinks + (index - self.sinks) % ring)

    def _row_numbers(self) -> Tensor:
        """The rows as numbers [B]."""
        if isinstance(self.rows, Tensor):
            return self.rows
        return torch.arange(len(self.index), device=self.index.device)[self.rows]
