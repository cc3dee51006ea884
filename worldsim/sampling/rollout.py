"""One frame of a dream: ``step_unit``. The engine, training on own roll-outs and evaluation all call it.

Shapes: B worlds, N tokens, C latent channels, H x W frame, M keys and look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from worldsim import pool
from worldsim.kernels import library, noise
from worldsim.model.cache import Cache, Rows
from worldsim.model.generator import Generator, Prediction
from worldsim.model.heads import expected
from worldsim.networks import Networks
from worldsim.sampling import philox
from worldsim.sampling.drift import drift_of
from worldsim.sampling.flow import denoise, levels
from worldsim.sampling.move import Move, move_cameras
from worldsim.sampling.noise import normal_batch
from worldsim.sampling.temperature import temperature_of
from worldsim.sampling.upload import upload
from worldsim.tokenizer.protocol import Motion, Past, View


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


def _copied(part: Tensor, rows: Rows) -> Tensor:
    return pool.copied(part[rows]) if isinstance(rows, slice) else part[rows]


def rows_of(numbers: np.ndarray, device: torch.device) -> Rows:
    """Numbers in rising order as what reads fastest: a slice where none is left out."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first == len(numbers) - 1:
        return slice(first, last + 1)
    return upload(numbers.astype(np.int64), device)


@dataclass(frozen=True, slots=True)
class Controls:
    """What leads into the new frame: NumPy arrays, or tensors where the networks are."""

    vector: np.ndarray | Tensor
    """Keys and look, float32 [B, M]."""
    poses: np.ndarray | Tensor | None = None
    """Explicit camera-to-world of the new frame, float64 [B, 4, 4]; read where ``given``."""
    given: np.ndarray | Tensor | None = None
    """bool [B]; None: nowhere."""

    def pick(self, rows: np.ndarray | slice) -> Self:
        """Those of some worlds."""
        poses, given = self.poses, self.given
        kept = None if poses is None else poses[rows]
        return replace(
            self, vector=self.vector[rows], poses=kept, given=None if given is None else given[rows]
        )

    def on(self, device: torch.device) -> Lead:
        """The same as tensors."""
        vector = _tensor(self.vector, device)
        if self.poses is None or self.given is None:
            return Lead(vector)
        if isinstance(self.given, np.ndarray) and not self.given.any():
            return Lead(vector)
        return Lead(vector, _tensor(self.poses, device), _tensor(self.given, device))


def _tensor(value: np.ndarray | Tensor, device: torch.device) -> Tensor:
    return upload(value, device) if isinstance(value, np.ndarray) else value.to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Lead(Controls):
    """``Controls`` where the networks are."""

    vector: Tensor
    poses: Tensor | None = None
    given: Tensor | None = None

    def on(self, device: torch.device) -> Lead:
        return self


@dataclass(frozen=True, slots=True)
class Unit:
    """A new frame."""

    frame: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    reward: Tensor
    """[B]"""
    going_on: Tensor
    """Probability that the episode goes on [B]."""
    drift: Tensor
    """How far the dream may be from the truth, float32 [B] in [0, 1]; see ``drift_of``."""
    latent: Tensor
    """[B, N, C]"""
    view: View
    """What the frame was decoded on top of."""


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


def begin(
    networks: Networks, frames: Tensor, poses: np.ndarray, seeds: np.ndarray, context: int | None = None
) -> Memory:
    """Memory after a first given frame [B, 3, H, W] seen from ``poses`` [B, 4, 4]; ``seeds`` are int [B]."""
    batch = len(frames)
    memory = blank(networks, batch, context)
    memory.poses = upload(poses.astype(np.float64), networks.device)  # a copy: memory is written to
    memory.seeds = upload(seeds.astype(np.uint64).view(np.int64), networks.device)
    still = torch.zeros(batch, networks.config.heads.control, device=networks.device)
    everywhere = torch.ones(batch, dtype=torch.bool, device=networks.device)
    observe_unit(networks, memory, frames, Controls(still, memory.poses, everywhere))
    return memory


def step_unit(
    networks: Networks, memory: Memory, controls: Controls, steps: int, decode: bool = True
) -> Unit:
    """Dream the next frame of every world in ``steps`` denoising passes and update ``memory`` in place.

    Without ``decode`` the frame is made only if the next one is made on top of it; otherwise it is blank.
    """
    lead = controls.on(networks.device)
    move = move_cameras(networks, memory, lead)
    view = _view(networks, memory, move)
    passes = _Passes.over(networks, memory, view, steps)
    generator = networks.generator
    shape = (generator.tokens, generator.config.channels)
    latent = _noise(memory.seeds, memory.indices, shape)
    if networks.footing is not None:  # one still place
        latent = latent * temperature_of(move.twist)[:, None, None]
    latent = denoise(lambda latent, i: passes.run(latent, i).clean[:, 0], latent, steps).clamp(-1, 1)
    if decode or networks.tokenizer.recalls:
        frame = networks.tokenizer.decode(latent, view).clamp_(-1, 1)
    else:
        frame = memory.past.frame
    _remember(networks, memory, passes, latent)
    return _commit(networks, memory, frame, latent, view, move)


def observe_unit(networks: Networks, memory: Memory, frames: Tensor, controls: Controls) -> Unit:
    """Take a given frame [B, 3, H, W] as the next one of every world and update ``memory`` in place."""
    lead = controls.on(networks.device)
    move = move_cameras(networks, memory, lead)
    view = _view(networks, memory, move)
    latent = networks.tokenizer.encode(frames, view)
    _remember(networks, memory, _Passes.over(networks, memory, view, 0), latent)
    return _commit(networks, memory, frames, latent, view, move)


@dataclass(frozen=True, slots=True)
class _Passes:
    """The generator's passes over one frame: those that denoise, then the clean one that is remembered."""

    generator: Generator
    cache: Cache
    embedded: Tensor
    """The view, as the generator takes it [B, 1, N, D]."""
    modulation: Tensor
    """Of every pass [B, steps + 1, 3, L, D]."""
    level: Tensor
    """Of every pass [1, steps + 1]."""

    @staticmethod
    def over(networks: Networks, memory: Memory, view: View, steps: int) -> _Passes:
        generator = networks.generator
        level, size = _schedule(steps, view.tokens.device)
        modulation = generator.condition(view.control[:, None], level, size)
        return _Passes(generator, memory.cache, generator.embed(view.tokens[:, None]), modulation, level)

    def run(self, latent: Tensor, number: int) -> Prediction:
        """The pass of this number over ``latent`` [B, N, C]; reads the cache."""
        now = slice(number, number + 1)
        modulation, level = self.modulation[:, now], self.level[:, now]
        return self.generator.run(latent[:, None], level, self.embedded, modulation, self.cache)

    def remember(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the clean pass over ``latent`` [B, N, C]."""
        return self.generator.remember(latent[:, None], self.embedded, self.modulation[:, -1:], self.cache)


@cache
def _schedule(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Level and size of each of ``steps`` denoising passes and of the clean one, both [1, steps + 1]."""
    with torch.inference_mode(False):
        level = torch.tensor([[*(levels(steps) if steps else []), 1.0]], device=device)
        size = torch.tensor([[*[1 / max(steps, 1)] * steps, 1.0]], device=device)
    return level, size


def _noise(seeds: Tensor, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Of every world, float32 [B, *shape]: on a CPU NumPy is faster than as many tensors, if not a kernel."""
    if seeds.device.type != "cpu":
        return philox.normal_rows(seeds, indices, 0, shape)
    if library.can_take():
        return noise.normal_rows(seeds, indices, 0, shape)
    return torch.from_numpy(normal_batch(seeds.numpy(), indices.numpy(), 0, shape))


def _view(networks: Networks, memory: Memory, move: Move) -> View:
    control = networks.control(move.vector, move.twist)
    return networks.tokenizer.view(memory.past, Motion(control, move.planar, move.back))


def _remember(networks: Networks, memory: Memory, passes: _Passes, latent: Tensor) -> None:
    """Write what the clean pass over ``latent`` [B, N, C] makes of the frame."""
    if networks.hears_agent:
        clean = passes.run(latent, passes.level.shape[1] - 1)
        keys, values, memory.agent = clean.keys, clean.values, clean.agent[:, 0]
    else:
        keys, values = passes.remember(latent)
    memory.cache.write(keys[:, :, 0], values[:, :, 0])


def _commit(
    networks: Networks, memory: Memory, frame: Tensor, latent: Tensor, view: View, move: Move
) -> Unit:
    """Take ``frame`` for the last one and the camera's step for done."""
    memory.past = Past(frame, view.reach)
    memory.moves = torch.cat([memory.moves[:, 1:], torch.cat([move.twist, move.vector], -1)[:, None]], 1)
    memory.doubt, memory.poses, memory.indices = move.doubt, move.poses, memory.indices + 1
    reward, going_on = networks.heads.judge(memory.agent, networks.tokenizer.surroundings(move.planar))
    return Unit(frame, expected(reward), going_on.sigmoid(), drift_of(frame, view, move.doubt), latent, view)
