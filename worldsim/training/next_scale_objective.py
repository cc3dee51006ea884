"""Objective of a next-scale generator, over fixed bits.

The tokenizer is trained already; the planes of a frame before quantisation are encoded once, so that flips
can be answered by the finer scales (``QuantisesScales.quantise``).

Shapes: B windows, T latents, F frames of a latent, N tokens, C bits of a token, M condition, R rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.next_scale import NextScaleGenerator
from worldsim.networks import Networks
from worldsim.sampling.protocol import LatentClip
from worldsim.tokenizer.protocol import QuantisesScales, quantises_scales
from worldsim.training.latent_dynamics_objective import ArrivalConditions, WindowDraw, outcome_loss
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs
from worldsim.training.world_model_objective import group_by_unit
from worldsim.utils.mixed_precision import mixed_precision

_ENCODE_BATCH = {"cuda": 4096}
"""Frames, by device; elsewhere 128, whose activations stay in a CPU's cache."""
_SHORT_SHARE = 0.25
"""Share of the stage with short windows."""


class BitPlanes:
    """Planes of a split's latents before quantisation, half precision; each is encoded when first used.

    A latent is known by its first arrival, as those after it are the same wherever it is used: an episode's
    last one is repeated.
    """

    def __init__(self, tokenizer: QuantisesScales, sequences: Sequences) -> None:
        self._tokenizer, self._sequences = tokenizer, sequences
        self._planes: Tensor | None = None
        self._is_known = torch.zeros(len(sequences), dtype=torch.bool, device=sequences.frame.device)

    def of(self, arrivals: Tensor) -> Tensor:
        """Planes float32 [R, C, gh, gw] of the latents of ``arrivals`` [R, F]."""
        if self._planes is None:
            spec = self._tokenizer.latent_spec
            shape = (len(self._is_known), spec.channels, *spec.grid)
            self._planes = torch.zeros(shape, dtype=torch.half, device=self._is_known.device)
        first = arrivals[:, 0]
        missing = arrivals[~self._is_known[first]].unique(dim=0)
        if len(missing):
            self._encode(missing, self._planes)
        return self._planes[first].float()

    def bits(self, arrivals: Tensor) -> Tensor:
        """Bits float32 [..., N, C] of the latents of ``arrivals`` [..., F]."""
        with torch.no_grad():
            bits = self._tokenizer.quantise(self.of(arrivals.flatten(0, -2))).bits
        return bits.unflatten(0, arrivals.shape[:-1])

    @torch.no_grad()
    def _encode(self, arrivals: Tensor, planes: Tensor) -> None:
        """Fill in ``planes`` of the latents of ``arrivals`` [R, F]."""
        device = arrivals.device.type
        with mixed_precision(device):
            for some in arrivals.split(_ENCODE_BATCH.get(device, 128)):
                frames = self._sequences.pixels(self._sequences.frame[some])
                clips = frames if frames.shape[1] > 1 else frames[:, 0]
                planes[some[:, 0]] = self._tokenizer.planes(clips).half()
        self._is_known[arrivals[:, 0]] = True


class NextScaleObjective:
    """The objective of the generator's stage; see the module's docstring.

    Training is staged ([VideoAR]): short windows first, as many frames a step, then whole ones. The
    generator's own errors come in between a quarter and a half of the stage; at once if it is trained already
    (``warm``).

    Args:
        networks: whose generator, conditions and heads learn.
        sequences: recorded frames and arrivals.
        draw: sizes and shares of whole windows; their length is in latents.
        short: latents of a short window.
        warm: the generator is trained already: all windows are whole.
    """

    def __init__(
        self, networks: Networks, sequences: Sequences, draw: WindowDraw, short: int, warm: bool = False
    ) -> None:
        self._networks, self._sequences, self._draw = networks, sequences, draw
        self._short, self._warm = min(short, draw.length), warm
        self._tokenizer = quantises_scales(networks.tokenizer)
        self._frames = self._tokenizer.latent_spec.frames
        self.planes = BitPlanes(self._tokenizer, sequences)
        self.conditions = ArrivalConditions(networks, sequences)

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        networks, sequences, draw = self._networks, self._sequences, self._draw
        length = draw.length if self._warm or progress > _SHORT_SHARE else self._short
        batch = draw.batch * draw.length // length
        windows = sequences.draw(batch, length * self._frames, rng, draw.starts, draw.ends)
        latents = windows.arrivals.unflatten(1, (length, self._frames))
        planes, bits = self.planes.of(latents.flatten(0, 1)), self.planes.bits(latents)
        exists = windows.valid & ~sequences.ends[windows.arrivals]  # an end has no frame of its own

        def requantise(flips: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                again = self._tokenizer.quantise(planes, flips.flatten(0, 1))
            return again.seen.unflatten(0, (batch, length)), again.bits.unflatten(0, (batch, length))

        vector = networks.conditions.withhold(sequences.controls[windows.arrivals], rng)
        clip = LatentClip(
            latents=bits,
            prior_tokens=bits.new_zeros(*bits.shape[:3], networks.tokenizer.prior_channels),
            condition=group_by_unit(self.conditions(vector, windows.arrivals), self._frames),
            weight=exists.unflatten(1, (length, -1)).all(2).float(),
            own_past=draw.own_past * (1.0 if self._warm else min(1.0, max(0.0, 4 * progress - 1))),
            requantise=requantise,
        )
        sampled = networks.sampler.loss(networks.generator, clip, rng)
        # Importance weights: the probabilities must not depend on how often windows were drawn.
        first = self._frames  # of the frames that follow something
        weight = windows.valid[:, first:] * windows.importance[:, None]
        arrivals, agent = windows.arrivals[:, first:], sampled.agent[:, 1:].repeat_interleave(first, 1)
        outcome, outcome_logs = outcome_loss(networks.heads, sequences, arrivals, agent, weight)
        loss, logs = sampled.loss + 0.1 * outcome, {**sampled.logs, **outcome_logs}
        if not networks.has_poses:
            return loss, logs
        motion = self.conditions.motion_loss(windows, vector, sampled.agent, exists)
        return loss + 0.1 * motion, {**logs, "motion_loss": motion.detach()}


def next_scale(networks: Networks) -> NextScaleGenerator:
    """The generator, if it is a next-scale one.

    Raises:
        ConfigError: it is another.
    """
    generator = networks.generator
    if not isinstance(generator, NextScaleGenerator):
        rule = "a next-scale recipe needs the generator next-scale"
        raise ConfigError(rule, type(generator).__name__, "start from a world of the same recipe")
    return generator
