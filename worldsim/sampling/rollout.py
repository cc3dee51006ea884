"""One frame of a dream: ``step_unit``. The engine, training on own roll-outs and evaluation all call it.

Shapes: B worlds, N tokens, C latent channels, H x W frame, M keys and look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.model.cache import Cache
from worldsim.model.generator import Prediction
from worldsim.model.heads import expected
from worldsim.networks import Networks
from worldsim.sampling.flow import denoise
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
        index = torch.from_numpy(np.asarray(rows, np.int64)).to(self.agent.device)
        return Memory(
            cache=self.cache.pick(index),
            past=self.past.pick(index),
            agent=self.agent[index],
            twists=self.twists[index],
            poses=self.poses[rows].copy(),
            seeds=self.seeds[rows].copy(),
            indices=self.indices[rows].copy(),
        )

    def put(self, rows: np.ndarray, other: Memory) -> None:
        """Overwrite some worlds with those of ``other``, in this memory's number type."""
        index = torch.from_numpy(np.asarray(rows, np.int64)).to(self.agent.device)
        self.cache.put(index, other.cache)
        self.past.put(index, other.past)
        self.agent[index], self.twists[index] = other.agent.to(self.agent.dtype), other.twists
        self.poses[rows], self.seeds[rows], self.indices[rows] = other.poses, other.seeds, other.indices


@dataclass(frozen=True, slots=True)
class Controls:
    """What leads into the new frame."""

    vector: np.ndarray
    """Keys and look, float32 [B, M]."""
    poses: np.ndarray
    """Explicit camera-to-world of the new frame, float64 [B, 4, 4]; read where ``given``."""
    given: np.ndarray
    """bool [B]"""


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


def step_unit(networks: Networks, memory: Memory, controls: Controls, steps: int) -> Unit:
    """Dream the next frame of every world in ``steps`` denoising passes and update ``memory`` in place."""
    move = _move(networks, memory, controls)
    view = _view(networks, memory, controls, move)
    generator = networks.generator
    noise = normal_batch(memory.seeds, memory.indices, 0, (generator.tokens, generator.config.channels))

    def predict(latent: Tensor, level: float, step: float) -> Tensor:
        return _pass(networks, memory, latent, view, level, step).clean[:, 0]

    latent = denoise(predict, torch.from_numpy(noise).to(view.prior.device), steps).clamp(-1, 1)
    frame = networks.tokenizer.decode(latent, view).clamp(-1, 1)
    return _commit(networks, memory, frame, latent, view, move)


def observe_unit(networks: Networks, memory: Memory, frames: Tensor, controls: Controls) -> Unit:
    """Take a given frame [B, 3, H, W] as the next one of every world and update ``memory`` in place."""
    move = _move(networks, memory, controls)
    view = _view(networks, memory, controls, move)
    return _commit(networks, memory, frames, networks.tokenizer.encode(frames, view), view, move)


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
    twist[given] = camera.log(camera.relative(memory.poses[given], controls.poses[given]))
    poses = camera.compose(memory.poses, camera.exp(twist))
    poses[given] = controls.poses[given]
    back = torch.from_numpy(camera.relative(memory.poses, poses)).float().to(device)
    return _Move(torch.from_numpy(networks.normalise(twist)).to(device), poses, _planar(poses, device), back)


def _view(networks: Networks, memory: Memory, controls: Controls, move: _Move) -> View:
    control = torch.cat([torch.from_numpy(controls.vector).to(move.twist.device), move.twist], -1)
    return networks.tokenizer.view(memory.past, Motion(control, move.planar, move.back))


def _pass(
    networks: Networks, memory: Memory, latent: Tensor, view: View, level: float, step: float
) -> Prediction:
    """One pass of the generator over one frame, reading the cache."""
    fill = torch.full((len(latent), 2), level, device=latent.device)
    fill[:, 1] = step
    return networks.generator(
        noisy=latent[:, None],
        level=fill[:, :1],
        step=fill[:, 1:],
        view=view.tokens[:, None],
        control=view.control[:, None],
        cache=memory.cache,
    )


def _commit(
    networks: Networks, memory: Memory, frame: Tensor, latent: Tensor, view: View, move: _Move
) -> Unit:
    """Write the clean frame into the cache and move on."""
    written = _pass(networks, memory, latent, view, 1.0, 1.0)
    memory.cache.write(written.keys[:, :, 0], written.values[:, :, 0])
    memory.past = Past(frame, view.reach)
    memory.agent = written.agent[:, 0]
    memory.twists = torch.cat([memory.twists[:, 1:], move.twist[:, None]], 1)
    memory.poses, memory.indices = move.poses, memory.indices + 1
    reward, going_on = networks.heads.judge(memory.agent, networks.tokenizer.surroundings(move.planar))
    known = (frame - view.warped).abs() * view.valid
    surprise = known.mean((1, 2, 3)) / view.valid.mean((1, 2, 3)).clamp(min=0.05)
    return Unit(frame, expected(reward), going_on.sigmoid(), surprise, latent, view)


def _planar(poses: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(camera.planar(poses)).float().to(device)
