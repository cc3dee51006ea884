"""One frame of a dream: ``step_unit``. The engine, training on own roll-outs and evaluation all call it.

Shapes: B worlds, N tokens, C latent channels, H x W frame, M keys and look.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from worldsim.kernels import library, noise
from worldsim.model.cache import Cache
from worldsim.model.generator import Generator, Prediction
from worldsim.model.heads import expected
from worldsim.networks import Networks
from worldsim.sampling import philox
from worldsim.sampling.drift import drift_of
from worldsim.sampling.flow import denoise, levels
from worldsim.sampling.lead import Controls
from worldsim.sampling.memory import Memory, blank
from worldsim.sampling.move import Move, move_cameras
from worldsim.sampling.noise import normal_batch
from worldsim.sampling.temperature import temperature_of
from worldsim.sampling.upload import upload
from worldsim.tokenizer.protocol import Motion, Past, View


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
