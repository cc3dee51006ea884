"""What a dream goes on from: ``Memory``.

Shapes: B worlds, D width, P steps back, M keys and look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim import pool
from worldsim.model.cache import Cache, Rows
from worldsim.networks import Networks
from worldsim.sampling.upload import upload
from worldsim.tokenizer.protocol import Past


@dataclass(slots=True)
class Memory:
    """All that the futures of B worlds depend on, apart from the weights."""

    cache: Cache
    past: Past
    agent: Tensor
    """Agent token of the last frame [B, D]; 0 where nothing hears it."""
    moves: Tensor
    """Last steps, newest last [B, P, 6 + M]: the normalised twist, then the keys and look that led to it."""
    doubt: Tensor
    """How far off the camera may be, in metres [B]; 0 where it was given."""
    poses: Tensor
    """Camera-to-world of the last frame, float64 [B, 4, 4]; identity where the source has no poses."""
    seeds: Tensor
    """int64 [B], of the bits of an unsigned number."""
    indices: Tensor
    """Frames so far, int64 [B]."""

    def pick(self, rows: np.ndarray | Rows) -> Memory:
        """A copy of some worlds."""
        index = self._index(rows)
        return self._gather(index, self.cache.pick(index))

    def over(self, rows: Rows, keep: bool = False) -> Memory:
        """Some worlds, to be stepped: this memory's cache is written to, the rest is for ``take``.

        With ``keep`` what is not in the cache is a copy, which outlives that.
        """
        if keep or not isinstance(rows, slice):
            return self._gather(rows, self.cache.over(rows))
        frame, reach, *own = (part[rows] for part in self._parts())
        return Memory(self.cache.over(rows), Past(frame, reach), *own)

    def take(self, rows: Rows, other: Memory) -> None:
        """Overwrite all of some worlds but their cache."""
        self.past.frame[rows], self.past.reach[rows] = other.past.frame, other.past.reach
        self.agent[rows], self.moves[rows] = other.agent.to(self.agent.dtype), other.moves
        self.doubt[rows], self.poses[rows] = other.doubt, other.poses
        self.seeds[rows], self.indices[rows] = other.seeds, other.indices

    def put(self, rows: np.ndarray | Rows, other: Memory) -> None:
        """Overwrite some worlds with those of ``other``, in this memory's number type."""
        index = self._index(rows)
        self.cache.put(index, other.cache)
        self.take(index, other)

    def replace(self, mask: Tensor, other: Memory) -> None:
        """Overwrite the worlds in ``mask``, bool [B], with those of ``other``, which has as many."""
        for mine, theirs in zip(self._parts(), other._parts(), strict=True):
            chosen = mask.view(-1, *[1] * (mine.ndim - 1))
            mine.copy_(torch.where(chosen, theirs.to(mine.dtype), mine))
        self.cache.replace(mask, other.cache)

    def to(self, device: torch.device) -> Memory:
        """The same on another device."""
        return Memory(
            cache=self.cache.to(device),
            past=Past(self.past.frame.to(device), self.past.reach.to(device)),
            agent=self.agent.to(device),
            moves=self.moves.to(device),
            doubt=self.doubt.to(device),
            poses=self.poses.to(device),
            seeds=self.seeds.to(device),
            indices=self.indices.to(device),
        )

    def bytes_per_world(self) -> int:
        """How much memory one world takes."""
        cache = self.cache
        tensors = (cache.keys, cache.values, cache.written, cache.index, *self._parts())
        return sum(part.nbytes for part in tensors) // len(self.agent)

    def _parts(self) -> tuple[Tensor, ...]:
        """All but the cache, worlds first."""
        own = (self.agent, self.moves, self.doubt, self.poses, self.seeds, self.indices)
        return (self.past.frame, self.past.reach, *own)

    def _gather(self, rows: Rows, cache: Cache) -> Memory:
        frame, reach, *own = (_copied(part, rows) for part in self._parts())
        return Memory(cache, Past(frame, reach), *own)

    def _index(self, rows: np.ndarray | Rows) -> Rows:
        return upload(rows.astype(np.int64), self.agent.device) if isinstance(rows, np.ndarray) else rows


def blank(networks: Networks, batch: int, context: int | None = None) -> Memory:
    """Memory of ``batch`` worlds in which nothing has been seen, with a cache of ``context`` frames."""
    config, device = networks.config, networks.device
    return Memory(
        cache=networks.generator.empty_cache(batch, context),
        past=networks.tokenizer.blank(batch, device),
        agent=networks.generator.latent_in.weight.new_zeros(batch, config.generator.width),
        moves=torch.zeros(batch, config.heads.twists, 6 + config.heads.control, device=device),
        doubt=torch.zeros(batch, device=device),
        poses=torch.eye(4, dtype=torch.float64, device=device).repeat(batch, 1, 1),
        seeds=torch.zeros(batch, dtype=torch.int64, device=device),
        indices=torch.zeros(batch, dtype=torch.int64, device=device),
    )


def _copied(part: Tensor, rows: Rows) -> Tensor:
    return pool.copied(part[rows]) if isinstance(rows, slice) else part[rows]


def rows_of(numbers: np.ndarray, device: torch.device) -> Rows:
    """Numbers in rising order as what reads fastest: a slice where none is left out."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first == len(numbers) - 1:
        return slice(first, last + 1)
    return upload(numbers.astype(np.int64), device)
