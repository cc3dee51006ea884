"""Objectives of the next-scale recipe: the generator over fixed bits, then reward and end over the generator.

The tokenizer is trained already; the planes of a frame before quantisation are encoded once, so that flips
can be answered by the finer scales (``QuantisesScales.quantise``).

Shapes: B windows, T frames, N tokens, C bits of a token, M condition, R rows, E episodes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.next_scale import NextScaleGenerator
from worldsim.networks import Networks
from worldsim.sampling.protocol import LatentClip
from worldsim.tokenizer.protocol import QuantisesScales, quantises_scales
from worldsim.training.latent_dynamics_objective import ArrivalConditions, WindowDraw, outcome_loss
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs
from worldsim.utils.mixed_precision import mixed_precision

_ENCODE_BATCH = {"cuda": 4096}
"""Frames, by device; elsewhere 128, whose activations stay in a CPU's cache."""
_MOST_ON_CPU = 30_000
"""Arrivals whose outcome a CPU learns alone."""
_SHORT_SHARE = 0.25
"""Share of the stage with short windows."""
_DROPOUT = 0.3
"""Share of inputs that are dropped at random: a few hundred ends are learnt by heart otherwise."""
_STRETCH = 128
"""Frames of an episode whose features are computed at once."""


class BitPlanes:
    """Planes of a split's frames before quantisation, half precision; each is encoded when first used."""

    def __init__(self, tokenizer: QuantisesScales, sequences: Sequences) -> None:
        self._tokenizer, self._sequences = tokenizer, sequences
        self._planes: Tensor | None = None
        self._is_known = torch.zeros(len(sequences.frames), dtype=torch.bool, device=sequences.frame.device)

    def of(self, frame: Tensor) -> Tensor:
        """Planes float32 [R, C, gh, gw] of the frames of the numbers ``frame`` [R]."""
        if self._planes is None:
            spec = self._tokenizer.latent_spec
            shape = (len(self._is_known), spec.channels, *spec.grid)
            self._planes = torch.zeros(shape, dtype=torch.half, device=self._is_known.device)
        missing = frame[~self._is_known[frame]].unique()
        if len(missing):
            self._encode(missing, self._planes)
        return self._planes[frame].float()

    def bits(self, frame: Tensor) -> Tensor:
        """Bits float32 [..., N, C] of the frames of the numbers ``frame`` [...]."""
        with torch.no_grad():
            bits = self._tokenizer.quantise(self.of(frame.flatten())).bits
        return bits.unflatten(0, frame.shape)

    @torch.no_grad()
    def _encode(self, frame: Tensor, planes: Tensor) -> None:
        """Fill in ``planes`` of the frames of the numbers ``frame`` [R]."""
        device = frame.device.type
        with mixed_precision(device):
            for numbers in frame.split(_ENCODE_BATCH.get(device, 128)):
                planes[numbers] = self._tokenizer.planes(self._sequences.pixels(numbers)).half()
        self._is_known[frame] = True


class NextScaleObjective:
    """The objective of the generator's stage; see the module's docstring.

    Training is staged (seed 001): short windows first, as many frames a step, then whole ones. The
    generator's own errors come in between a quarter and a half of the stage; at once if it is trained already
    (``warm``).

    Args:
        networks: whose generator, conditions and heads learn.
        sequences: recorded frames and arrivals.
        draw: sizes and shares of whole windows.
        short: arrivals in a short window.
        warm: the generator is trained already: all windows are whole.
    """

    def __init__(
        self, networks: Networks, sequences: Sequences, draw: WindowDraw, short: int, warm: bool = False
    ) -> None:
        self._networks, self._sequences, self._draw = networks, sequences, draw
        self._short, self._warm = min(short, draw.length), warm
        self._tokenizer = quantises_scales(networks.tokenizer)
        self.planes = BitPlanes(self._tokenizer, sequences)
        self.conditions = ArrivalConditions(networks, sequences)

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        networks, sequences, draw = self._networks, self._sequences, self._draw
        length = draw.length if self._warm or progress > _SHORT_SHARE else self._short
        batch = draw.batch * draw.length // length
        windows = sequences.draw(batch, length, rng, draw.starts, draw.ends)
        ends, frame = sequences.ends[windows.arrivals], sequences.frame[windows.arrivals]
        planes, bits = self.planes.of(frame.flatten()), self.planes.bits(frame)

        def requantise(flips: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                again = self._tokenizer.quantise(planes, flips.flatten(0, 1))
            return again.seen.unflatten(0, frame.shape), again.bits.unflatten(0, frame.shape)

        vector = networks.conditions.withhold(sequences.controls[windows.arrivals], rng)
        clip = LatentClip(
            latents=bits,
            prior_tokens=bits.new_zeros(*bits.shape[:3], networks.tokenizer.prior_channels),
            condition=self.conditions(vector, windows.arrivals),
            weight=(windows.valid & ~ends).float(),  # an end has no frame of its own
            own_past=draw.own_past * (1.0 if self._warm else min(1.0, max(0.0, 4 * progress - 1))),
            requantise=requantise,
        )
        sampled = networks.sampler.loss(networks.generator, clip, rng)
        # Importance weights: the probabilities must not depend on how often windows were drawn.
        weight = windows.valid[:, 1:] * windows.importance[:, None]
        arrivals, agent = windows.arrivals[:, 1:], sampled.agent[:, 1:]
        outcome, outcome_logs = outcome_loss(networks.heads, sequences, arrivals, agent, weight)
        loss, logs = sampled.loss + 0.1 * outcome, {**sampled.logs, **outcome_logs}
        if not networks.has_poses:
            return loss, logs
        motion = self.conditions.motion_loss(windows, vector, sampled.agent, windows.valid & ~ends)
        return loss + 0.1 * motion, {**logs, "motion_loss": motion.detach()}


class NextScaleOutcomeObjective:
    """Reward and end over a frozen generator.

    Features of arrivals are computed once, with the past as at inference; only the agent feature's last layer
    and the heads are trained. Ends are few: a generator that is trained on them with all else overfits. A CPU
    takes whole episodes, drawn at random, up to a number of arrivals.
    """

    def __init__(
        self, networks: Networks, sequences: Sequences, dynamics: NextScaleObjective, batch: int
    ) -> None:
        self._networks, self._generator = networks, next_scale(networks)
        self._sequences, self._batch = sequences, batch
        self._planes, self._conditions = dynamics.planes, dynamics.conditions
        self._inputs: Tensor | None = None
        self._known = np.zeros(0, np.int64)

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        if self._inputs is None:
            self._inputs = self._encode(rng)
        torch.manual_seed(int(rng.integers(2**62)))
        rows = torch.from_numpy(rng.choice(self._known, self._batch)).to(self._sequences.device)
        inputs = F.dropout(self._inputs[rows].float(), _DROPOUT)
        agent = self._generator.agent_of(inputs)
        return outcome_loss(self._networks.heads, self._sequences, rows, agent, torch.ones_like(agent[:, 0]))

    @torch.no_grad()
    def _encode(self, rng: np.random.Generator) -> Tensor:
        """Return the inputs of arrivals' agent features, float16 [A, ...]; 0 where they are not known."""
        sequences, firsts = self._sequences, np.flatnonzero(self._sequences.is_first)
        lasts = np.append(firsts[1:], len(sequences))
        size = self._generator.agent_in.in_features
        inputs = torch.zeros(len(sequences), size, dtype=torch.half, device=sequences.device)
        # A frame hangs on as many frames before it as all layers together look back, and on two by its bits.
        config, known = self._generator.config, list[int]()
        reach = config.layers * (config.context - 1) + 2
        most = _MOST_ON_CPU if sequences.device.type == "cpu" else len(sequences)
        with mixed_precision(sequences.device.type):
            for number in rng.permutation(len(firsts)):
                first, last = int(firsts[number]), int(lasts[number])
                for start in range(first + 1, last, _STRETCH):
                    end = min(last, start + _STRETCH)
                    self._encode_stretch(max(first, start - reach), start, end, inputs)
                known += range(first + 1, last)
                if len(known) >= most:
                    break
        self._known = np.array(known)
        return inputs

    def _encode_stretch(self, begin: int, start: int, end: int, inputs: Tensor) -> None:
        """Fill in ``inputs`` of the arrivals from ``start`` to ``end``; those from ``begin`` on are given."""
        arrivals = torch.arange(begin, end, device=inputs.device)[None]
        bits = self._planes.bits(self._sequences.frame[arrivals])
        condition = self._conditions(self._sequences.controls[arrivals], arrivals)
        prior = bits.new_zeros(*bits.shape[:3], self._networks.tokenizer.prior_channels)
        made = self._generator.agent_inputs(self._generator.clip(bits, condition, prior))
        inputs[start:end] = made[0, start - begin :].half()


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
