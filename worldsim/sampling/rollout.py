"""One frame of a dream: ``step_unit``. The engine, training on own roll-outs and evaluation all call it.

Shapes: B worlds, N tokens, C latent channels, H x W frame, M keys and look.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.model.cache import Cache
from worldsim.model.generator import Generator, Prediction
from worldsim.model.heads import expected
from worldsim.networks import Networks
from worldsim.sampling.flow import denoise, levels
from worldsim.sampling.noise import normal_batch
from worldsim.tokenizer.protocol import Motion, Past, View


@dataclass(slots=True)
class Memory:
    """All that the futures of B worlds depend on, apart from the weights."""

    cache: Cache
    past: Past
    agent: Tensor
    """Agent token of the last frame [B, D]."""
    twists: Tensor
    """Last normalised twists, newest last [B, P, 6]."""
    poses: np.ndarray
    """Camera-to-world of the last frame, float64 [B, 4, 4]; identity where the source has no poses."""
    seeds: np.ndarray
    """uint64 [B]"""
    indices: np.ndarray
    """Frames so far, int64 [B]."""

    def pick(self, rows: np.ndarray) -> Memory:
        """A copy of some worlds."""
        return self._gather(rows, self.cache.pick(_index(rows, self.agent.device)))

    def over(self, rows: np.ndarray) -> Memory:
        """Some worlds, to be stepped: their cache is this memory's own, the rest is a copy; see ``take``."""
        numbers, index = np.asarray(rows), _index(rows, self.agent.device)
        dense = (
            len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1 and (np.diff(numbers) == 1).all()
        )
        cache = self.cache.over(slice(int(numbers[0]), int(numbers[-1]) + 1) if dense else index)
        return self._gather(rows, cache)

    def take(self, rows: np.ndarray, other: Memory) -> None:
        """Overwrite all of some worlds but their cache."""
        index = _index(rows, self.agent.device)
        self.past.put(index, other.past)
        self.agent[index], self.twists[index] = other.agent.to(self.agent.dtype), other.twists
        self.poses[rows], self.seeds[rows], self.indices[rows] = other.poses, other.seeds, other.indices

    def put(self, rows: np.ndarray, other: Memory) -> None:
        """Overwrite some worlds with those of ``other``, in this memory's number type."""
        self.cache.put(_index(rows, self.agent.device), other.cache)
        self.take(rows, other)

    def to(self, device: torch.device) -> Memory:
        """The same on another device."""
        return Memory(
            cache=self.cache.to(device),
            past=Past(self.past.frame.to(device), self.past.reach.to(device)),
            agent=self.agent.to(device),
            twists=self.twists.to(device),
            poses=self.poses,
            seeds=self.seeds,
            indices=self.indices,
        )

    def bytes_per_world(self) -> int:
        """How much memory one world takes."""
        cache, rows = self.cache, len(self.agent)
        tensors = (cache.keys, cache.values, cache.written, cache.index, self.past.frame, self.past.reach)
        held = sum(part.nbytes for part in (*tensors, self.agent, self.twists))
        return (held + self.poses.nbytes + self.seeds.nbytes + self.indices.nbytes) // rows

    def _gather(self, rows: np.ndarray, cache: Cache) -> Memory:
        index = _index(rows, self.agent.device)
        return Memory(
            cache=cache,
            past=self.past.pick(index),
            agent=self.agent[index],
            twists=self.twists[index],
            poses=self.poses[rows].copy(),
            seeds=self.seeds[rows].copy(),
            indices=self.indices[rows].copy(),
        )


def _index(rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(rows, np.int64)).to(device)


@dataclass(frozen=True, slots=True)
class Controls:
    """What leads into the new frame."""

    vector: np.ndarray
    """Keys and look, float32 [B, M]."""
    poses: np.ndarray
    """Explicit camera-to-world of the new frame, float64 [B, 4, 4]; read where ``given``."""
    given: np.ndarray
    """bool [B]"""

    def pick(self, rows: np.ndarray) -> Controls:
        """Those of some worlds."""
        return Controls(self.vector[rows], self.poses[rows], self.given[rows])


@dataclass(frozen=True, slots=True)
class Unit:
    """A new frame."""

    frame: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    reward: Tensor
    """[B]"""
    going_on: Tensor
    """Probability that the episode goes on [B]."""
    surprise: Tensor
    """Where the past speaks, how far the frame is from what it said: mean absolute difference [B]."""
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
        twists=torch.zeros(batch, config.heads.twists, 6, device=device),
        poses=np.tile(np.eye(4), (batch, 1, 1)),
        seeds=np.zeros(batch, np.uint64),
        indices=np.zeros(batch, np.int64),
    )


def begin(
    networks: Networks, frames: Tensor, poses: np.ndarray, seeds: np.ndarray, context: int | None = None
) -> Memory:
    """Memory after a first given frame [B, 3, H, W] seen from ``poses`` [B, 4, 4]."""
    batch = len(frames)
    memory = blank(networks, batch, context)
    memory.poses, memory.seeds = poses.astype(np.float64), seeds.astype(np.uint64)
    still = np.zeros((batch, networks.config.heads.control), np.float32)
    observe_unit(networks, memory, frames, Controls(still, memory.poses, np.ones(batch, bool)))
    return memory


def step_unit(
    networks: Networks, memory: Memory, controls: Controls, steps: int, decode: bool = True
) -> Unit:
    """Dream the next frame of every world in ``steps`` denoising passes and update ``memory`` in place.

    Without ``decode`` the frame is made only if the next one is made on top of it; otherwise it is blank.
    """
    move = _move(networks, memory, controls)
    view = _view(networks, memory, controls, move)
    passes = _Passes.over(networks, memory, view, steps)
    generator = networks.generator
    noise = normal_batch(memory.seeds, memory.indices, 0, (generator.tokens, generator.config.channels))
    latent = torch.from_numpy(noise).to(view.prior.device)
    latent = denoise(lambda latent, i: passes.run(latent, i).clean[:, 0], latent, steps).clamp(-1, 1)
    if decode or networks.tokenizer.recalls:
        frame = networks.tokenizer.decode(latent, view).clamp(-1, 1)
    else:
        frame = memory.past.frame
    return _commit(networks, memory, frame, latent, view, move, passes.run(latent, steps))


def observe_unit(networks: Networks, memory: Memory, frames: Tensor, controls: Controls) -> Unit:
    """Take a given frame [B, 3, H, W] as the next one of every world and update ``memory`` in place."""
    move = _move(networks, memory, controls)
    view = _view(networks, memory, controls, move)
    latent = networks.tokenizer.encode(frames, view)
    clean = _Passes.over(networks, memory, view, 0).run(latent, 0)
    return _commit(networks, memory, frames, latent, view, move, clean)


@dataclass(frozen=True, slots=True)
class _Passes:
    """The generator's passes over one frame: those that denoise, then the clean one that is remembered."""

    generator: Generator
    cache: Cache
    embedded: Tensor
    """The view, as the generator takes it [B, 1, N, D]."""
    modulation: Tensor
    """Of every pass [B, steps + 1, 3, L, D]."""

    @staticmethod
    def over(networks: Networks, memory: Memory, view: View, steps: int) -> _Passes:
        generator = networks.generator
        level, size = _schedule(steps, view.tokens.device)
        rows = len(view.tokens)
        modulation = generator.condition(view.control[:, None], level.expand(rows, -1), size.expand(rows, -1))
        return _Passes(generator, memory.cache, generator.embed(view.tokens[:, None]), modulation)

    def run(self, latent: Tensor, number: int) -> Prediction:
        """The pass of this number over ``latent`` [B, N, C]; reads the cache."""
        modulation = self.modulation[:, number : number + 1]
        return self.generator.run(latent[:, None], self.embedded, modulation, self.cache)


@cache
def _schedule(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Level and size of each of ``steps`` denoising passes and of the clean one, both [1, steps + 1]."""
    with torch.inference_mode(False):
        level = torch.tensor([[*(levels(steps) if steps else []), 1.0]], device=device)
        size = torch.tensor([[*[1 / max(steps, 1)] * steps, 1.0]], device=device)
    return level, size


@dataclass(frozen=True, slots=True)
class _Move:
    """How the camera gets to the new frame."""

    twist: Tensor
    """Normalised [B, 6]."""
    poses: np.ndarray
    """The new frame's camera-to-world, float64 [B, 4, 4]."""
    planar: Tensor | None
    back: Tensor | None


def _move(networks: Networks, memory: Memory, controls: Controls) -> _Move:
    """The explicit pose where one is given, the motion head's prediction elsewhere."""
    batch, device = len(controls.vector), networks.device
    if not networks.has_poses:
        return _Move(torch.zeros(batch, 6, device=device), memory.poses, None, None)
    scale = np.asarray(networks.config.twist_scale)
    twist, given = np.zeros((batch, 6)), np.flatnonzero(controls.given)
    if len(given) < batch:
        around = networks.tokenizer.surroundings(_planar(memory.poses, device))
        vector = torch.from_numpy(controls.vector).to(device)
        moved = networks.heads.move(memory.agent.float(), around, vector, memory.twists)
        twist = moved.double().cpu().numpy() * scale
    motion = camera.exp(twist)
    if len(given):
        motion[given] = camera.relative(memory.poses[given], controls.poses[given])
        twist[given] = camera.log(motion[given])
    poses = memory.poses @ motion  # both are rigid by now
    poses[given] = controls.poses[given]
    back = torch.from_numpy(motion).float().to(device)
    return _Move(torch.from_numpy(networks.normalise(twist)).to(device), poses, _planar(poses, device), back)


def _view(networks: Networks, memory: Memory, controls: Controls, move: _Move) -> View:
    control = torch.cat([torch.from_numpy(controls.vector).to(move.twist.device), move.twist], -1)
    return networks.tokenizer.view(memory.past, Motion(control, move.planar, move.back))


def _commit(
    networks: Networks,
    memory: Memory,
    frame: Tensor,
    latent: Tensor,
    view: View,
    move: _Move,
    clean: Prediction,
) -> Unit:
    """Remember the frame by what its ``clean`` pass gave, and move on."""
    memory.cache.write(clean.keys[:, :, 0], clean.values[:, :, 0])
    memory.past = Past(frame, view.reach)
    memory.agent = clean.agent[:, 0]
    memory.twists = torch.cat([memory.twists[:, 1:], move.twist[:, None]], 1)
    memory.poses, memory.indices = move.poses, memory.indices + 1
    reward, going_on = networks.heads.judge(memory.agent, networks.tokenizer.surroundings(move.planar))
    known = (frame - view.warped).abs() * view.valid
    surprise = known.mean((1, 2, 3)) / view.valid.mean((1, 2, 3)).clamp(min=0.05)
    return Unit(frame, expected(reward), going_on.sigmoid(), surprise, latent, view)


def _planar(poses: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(camera.planar(poses)).float().to(device)
