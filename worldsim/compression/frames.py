"""Frames coded by a world: each frame's bits by the chances that the generator gives them.

Encoder and decoder walk through the same world state, frame by frame, on the tokenizer's own past; so both
have the same chances, as long as they run the same arithmetic: the same weights, on the same kind of machine.
Where a latent holds several frames they are coded together, under controls that are known ahead; after the
last frame it is repeated to the end of its latent.

Shapes: T frames, N tokens, C bits of a token, M control vector, H x W frame.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.compression.coder import BitCounter, Coder
from worldsim.engine.world import World
from worldsim.errors import ConfigError
from worldsim.model.next_scale import NextScaleGenerator
from worldsim.model.protocol import Generator
from worldsim.model.scale_features import ScaleLogits
from worldsim.networks import Networks
from worldsim.pixels import to_frame, to_model
from worldsim.sampling.clock import imagine_frame
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.next_scale import bits_of
from worldsim.sampling.world_state import empty_state
from worldsim.tokenizer.protocol import quantises_scales
from worldsim.utils.threads import thread_limit

__all__ = ["CodedFrame", "check_world", "code_frames", "surprise"]


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """A frame that was coded or read."""

    bits: np.ndarray
    """int8 [N, C] of -1 and 1; of all frames of its latent, where that holds several."""
    frame: np.ndarray
    """The decoded frame, uint8 [H, W, 3]."""


def check_world(world: World) -> None:
    """Check that a world can code frames.

    Raises:
        ConfigError: it has no bits on several scales and no generator of them.
    """
    quantises_scales(world.networks.tokenizer)
    if not isinstance(world.networks.generator, NextScaleGenerator):
        rule = "compression needs a world with a next-scale generator"
        raise ConfigError(rule, world.name, "train one with --recipe next-scale")


def code_frames(
    world: World, coder: Coder, controls: np.ndarray, frames: np.ndarray | None
) -> Iterator[CodedFrame]:
    """Code frames one after the other, as they are asked for.

    Args:
        world: whose probabilities and tokenizer are used.
        coder: a writer or counter if ``frames`` are given, else a reader.
        controls: that led to each frame, float32 [T, M].
        frames: uint8 [T, H, W, 3]; None: they are read.
    """
    networks, unit = copy.copy(world.networks), world.networks.unit.frames
    steps, state = networks.sampler.default_steps, empty_state(world.networks, 1)
    sampler = networks.sampler = _CodingSampler(coder, networks)
    for t in range(len(controls)):
        ahead = np.minimum(np.arange(t, t + unit), len(controls) - 1)
        with torch.inference_mode(), thread_limit(1):
            if frames is not None and t % unit == 0:
                sampler.aim_at(to_model(frames[ahead], networks.device))
            known = ControlBatch(controls[ahead][None]) if unit > 1 and t % unit == 0 else None
            made = imagine_frame(networks, state, ControlBatch(controls[t : t + 1], ahead=known), steps)
            yield CodedFrame(made.latent[0].to(torch.int8).numpy(), to_frame(made.frame)[0].cpu().numpy())


def surprise(world: World, frames: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Surprise of each frame in bits, float64 [T]: minus the binary logarithm of its probability.

    That of a latent of several frames is shared by them alike.

    Args:
        world: with bits on several scales.
        frames: uint8 [T, H, W, 3].
        controls: that led to each frame, float32 [T, M].

    Raises:
        ConfigError: the world has no probabilities of bits.
    """
    check_world(world)
    counter, found, before = BitCounter(), [], 0.0
    for _ in code_frames(world, counter, controls, frames):
        found.append(counter.total - before)
        before = counter.total
    first = np.arange(0, len(found), world.networks.unit.frames)
    lengths = np.diff(np.append(first, len(found)))
    return np.repeat(np.add.reduceat(found, first) / lengths, lengths) if found else np.zeros(0)


class _CodingSampler:
    """A sampler whose bits are those of a given frame, or those that a reader reads."""

    def __init__(self, coder: Coder, networks: Networks) -> None:
        self._coder, self._tokenizer = coder, quantises_scales(networks.tokenizer)
        self._sampler = networks.sampler
        self._wanted: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def aim_at(self, frames: Tensor) -> None:
        """Give the next latent's frames [F, 3, H, W] in [-1, 1]."""
        clip = frames if len(frames) == 1 else frames[None]
        self._wanted = self._tokenizer.quantise(self._tokenizer.planes(clip)).bits

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        assert isinstance(generator, NextScaleGenerator), "checked before"
        bits, is_first = torch.zeros_like(noise), bool((prepared.units == 0).all())
        for index in range(denoising_steps):
            rows = generator.maps.rows(index)
            logits = generator.scale_logits(prepared, bits, index)
            if is_first:  # it follows nothing: its bits have no chances
                logits = ScaleLogits(torch.zeros_like(logits.base), torch.zeros_like(logits.coupling))
            wanted = None if self._wanted is None else self._wanted[0, rows]
            bits[:, rows], by = bits_of(logits, partial(self._code, wanted))
            prepared.drawn.append(by)
        return generator.finish(prepared, bits)

    def _code(self, wanted: Tensor | None, number: int, chance: Tensor) -> Tensor:
        """Code bit ``number`` of the tokens ``wanted`` [n, C], or read it; their ``chance`` is [1, n]."""
        given = None if wanted is None else (wanted[:, number] > 0).numpy().astype(np.int32)
        coded = self._coder.code(chance[0].double().numpy(), given)
        return torch.from_numpy(2.0 * coded - 1.0).float()[None]
