"""Inputs of the agent feature after recorded pasts and after imagined ones, for next-scale worlds.

They are computed once; the outcome stage learns from them.

Shapes: B stretches, T latents, F frames of a latent, N tokens, C bits of a token, Q condition of a latent, R
arrivals, D inputs of the agent feature, G given latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import DataError
from worldsim.networks import TWIST, Networks
from worldsim.training.next_scale_objective import NextScaleObjective, next_scale
from worldsim.training.sequences import Sequences
from worldsim.training.world_model_objective import group_by_unit
from worldsim.utils.mixed_precision import mixed_precision
from worldsim.utils.progress import ProgressReporter

_MOST_ON_CPU = 30_000
"""Arrivals after recorded pasts whose outcome a CPU learns alone."""
_MOST_IMAGINED_ON_CPU = 8_000
"""Arrivals after imagined pasts on a CPU, about: one core makes 60 a second, so they take two minutes."""
_CHUNK = 128
"""Latents of an episode whose features are computed at once."""
_IMAGINED_FRAMES = (2, 16)
"""Frames of an imagined past, drawn log-uniformly. A longer one leaves the recorded episode, and reward and
end would be learnt without their causes."""
_STRETCHES = {"cuda": 512}
"""Stretches that are imagined at once, by device; elsewhere 32, beyond which a CPU is no faster."""


@dataclass(frozen=True, slots=True)
class ArrivalInputs:
    """Inputs of the agent feature of some arrivals."""

    arrivals: Tensor
    """Numbers of the arrivals, int64 [R]."""
    inputs: Tensor
    """float16 [R, D]"""

    def draw(self, count: int, rng: np.random.Generator) -> ArrivalInputs:
        """``count`` of them, drawn with replacement."""
        rows = torch.from_numpy(rng.choice(len(self.arrivals), count)).to(self.arrivals.device)
        return ArrivalInputs(self.arrivals[rows], self.inputs[rows])

    @staticmethod
    def joined(parts: list[ArrivalInputs]) -> ArrivalInputs:
        """All of ``parts`` in their order; at least one."""
        with torch.autocast(parts[0].inputs.device.type, enabled=False):  # knows no float16 on a CPU
            inputs = torch.cat([part.inputs for part in parts])
        return ArrivalInputs(torch.cat([part.arrivals for part in parts]), inputs)


@dataclass(frozen=True, slots=True)
class EpisodeSpan:
    """Arrivals of an episode."""

    first: int
    """The first one."""
    last: int
    """The one after the last."""


@dataclass(frozen=True, slots=True)
class ImaginedStretch:
    """Consecutive latents of an episode that are imagined; they are numbered from the episode's first."""

    episode: EpisodeSpan
    begin: int
    """The first imagined latent."""
    end: int
    """The latent after the last imagined one, which the episode still has."""

    def __len__(self) -> int:
        """Number of latents, T."""
        return self.end - self.begin


class NextScalePasts:
    """Computes inputs of the agent feature by a trained generator.

    Args:
        networks: with a next-scale generator.
        sequences: the data.
        dynamics: the objective whose planes and conditions are read.
    """

    def __init__(self, networks: Networks, sequences: Sequences, dynamics: NextScaleObjective) -> None:
        self._networks, self._generator, self._sequences = networks, next_scale(networks), sequences
        self._planes, self._conditions = dynamics.planes, dynamics.conditions
        self._frames = networks.tokenizer.latent_spec.frames
        config = self._generator.config
        self.given = config.context
        """Latents that an imagined stretch follows, G: all that a token sees."""
        self._reach = config.layers * (config.context - 1) + 2
        firsts = np.flatnonzero(sequences.is_first)
        bounds = zip(firsts, np.append(firsts[1:], len(sequences)), strict=True)
        self._episodes = [EpisodeSpan(int(first), int(last)) for first, last in bounds]

    @torch.no_grad()
    def recorded(self, rng: np.random.Generator) -> ArrivalInputs:
        """Inputs after recorded pasts, of whole episodes in random order; a CPU takes a part of them.

        Raises:
            DataError: no episode has more frames than a latent.
        """
        sequences, known, made = self._sequences, 0, list[ArrivalInputs]()
        most = _MOST_ON_CPU if sequences.device.type == "cpu" else len(sequences)
        with mixed_precision(sequences.device.type):
            for number in rng.permutation(len(self._episodes)):
                parts = self._encode_recorded(self._episodes[number])
                known += sum(len(part.arrivals) for part in parts)
                made += parts
                if known >= most:
                    break
        if not made:
            rule = f"an episode must have more than the {self._frames} frames of a latent"
            longest = max(episode.last - episode.first for episode in self._episodes)
            raise DataError(rule, longest, "choose fewer frames, or record longer ones")
        return ArrivalInputs.joined(made)

    @torch.no_grad()
    def imagined(self, rng: np.random.Generator) -> ArrivalInputs | None:
        """Inputs after imagined pasts; None where no episode is long enough. torch is seeded by ``rng``.

        About as many as there are arrivals; a CPU takes fewer.
        """
        stretches = sorted(self.draw_stretches(rng), key=len, reverse=True)
        if not stretches:
            return None
        torch.manual_seed(int(rng.integers(2**62)))
        device, made, done = self._sequences.device.type, list[ArrivalInputs](), 0
        batch = _STRETCHES.get(device, 32)
        total = 2 * sum(map(len, stretches))  # latents are imagined, then encoded
        with mixed_precision(device), ProgressReporter("imagining pasts", total) as reporter:
            for start in range(0, len(stretches), batch):
                some = stretches[start : start + batch]
                drawn = self.imagine(some)
                done += sum(map(len, some))
                for number, (stretch, bits) in enumerate(zip(some, drawn, strict=True), start + 1):
                    made += self._encode_imagined(stretch, bits)
                    done += len(stretch)
                    reporter.update(done, f"{number} of {len(stretches)} stretches")
        return ArrivalInputs.joined(made)

    def draw_stretches(self, rng: np.random.Generator) -> list[ImaginedStretch]:
        """Random stretches, cut where their episode ends.

        They begin at any latent of the data that has ``given`` ones before it and one after it, all equally
        likely. Were an episode drawn first, short ones would have more stretches, and ends would be learnt
        too often.
        """
        stops = np.array([self._count(episode) - 1 for episode in self._episodes])
        eligible = np.maximum(0, stops - self.given).cumsum()
        most = len(self._sequences)
        if self._sequences.device.type == "cpu":
            most = min(most, _MOST_IMAGINED_ON_CPU)
        stretches, known = list[ImaginedStretch](), 0
        while eligible[-1] and known < most:
            place = int(rng.integers(eligible[-1]))
            number = int(np.searchsorted(eligible, place, "right"))
            begin = int(stops[number]) - (int(eligible[number]) - place)
            frames = int(np.exp(rng.uniform(*np.log(_IMAGINED_FRAMES))))
            end = min(begin + max(1, frames // self._frames), int(stops[number]))
            stretches.append(ImaginedStretch(self._episodes[number], begin, end))
            known += (end - begin) * self._frames
        return stretches

    @torch.no_grad()
    def imagine(self, stretches: list[ImaginedStretch]) -> list[Tensor]:
        """Bits float32 [T, N, C] of the latents of each stretch, as at play under the recorded controls.

        Stretches come longest first: a batch gets smaller as they end. No frame is decoded, as bits do not
        depend on it.
        """
        generator, sampler, given = self._generator, self._networks.sampler, self.given
        steps, lengths = sampler.default_steps, [len(stretch) for stretch in stretches]
        arrivals = torch.stack(
            [self._latents(one.episode, one.begin - given, one.begin + lengths[0]) for one in stretches]
        )
        condition, bits = self._condition(arrivals), self._planes.bits(arrivals[:, :given])
        prior = bits.new_zeros(len(bits), bits.shape[2], self._networks.tokenizer.prior_channels)
        scale = self._networks.noise_scale(bits.new_zeros(len(bits), TWIST))[:, None, None]
        state = generator.initial_state(len(bits))
        for t in range(given):
            prepared = generator.prepare(state, prior, condition[:, t], 0)
            generator.commit(state, prepared, bits[:, t], False)
        made = []
        for t in range(lengths[0]):
            rows = sum(length > t for length in lengths)
            if rows < len(prior):
                state, prior = state.pick(slice(rows)), prior[:rows]
            prepared = generator.prepare(state, prior, condition[:rows, given + t], steps)
            noise = scale[:rows] * torch.randn_like(bits[:rows, 0])
            made.append(sampler.draw(generator, prepared, noise, steps))
            generator.commit(state, prepared, made[-1], False)
        return [torch.stack([drawn[row] for drawn in made[:length]]) for row, length in enumerate(lengths)]

    def _encode_recorded(self, episode: EpisodeSpan) -> list[ArrivalInputs]:
        """Inputs of the arrivals of an episode, but for the first latent's."""
        made = []
        for start, stop in _chunks(1, self._count(episode)):
            bits = self._planes.bits(self._latents(episode, max(0, start - self._reach), stop))
            made.append(self._encode(episode, start, bits))
        return made

    def _encode_imagined(self, stretch: ImaginedStretch, own: Tensor) -> list[ArrivalInputs]:
        """Inputs of the arrivals after each imagined latent, whose bits are ``own`` [T, N, C].

        The last of them may end the episode.
        """
        oldest = max(0, stretch.begin + 1 - self._reach)
        bits = self._planes.bits(self._latents(stretch.episode, oldest, stretch.end + 1))
        bits[stretch.begin - oldest : stretch.end - oldest] = own
        made = []
        for start, stop in _chunks(stretch.begin + 1, stretch.end + 1):
            seen = bits[max(0, start - self._reach) - oldest : stop - oldest]
            made.append(self._encode(stretch.episode, start, seen))
        return made

    def _encode(self, episode: EpisodeSpan, start: int, bits: Tensor) -> ArrivalInputs:
        """Inputs of the arrivals of an episode's latents from ``start`` on, from ``bits`` [T, N, C].

        A latent hangs on as many before it as all layers together look back, and on two by its bits: ``bits``
        are those of all these, or from the episode's first on.
        """
        begin, frames = max(0, start - self._reach), self._frames
        stop = begin + len(bits)
        condition = self._condition(self._latents(episode, begin, stop)[None])
        prior = bits.new_zeros(1, *bits.shape[:2], self._networks.tokenizer.prior_channels)
        seen = self._generator.clip(bits[None], condition, prior)
        made = self._generator.agent_inputs(seen)[0, start - begin :].half().repeat_interleave(frames, 0)
        past_last = min(episode.last, episode.first + stop * frames)
        arrivals = torch.arange(episode.first + start * frames, past_last, device=bits.device)
        return ArrivalInputs(arrivals, made[: len(arrivals)])

    def _latents(self, episode: EpisodeSpan, begin: int, stop: int) -> Tensor:
        """Arrivals int64 [T, F] of an episode's latents ``begin`` to before ``stop``, the last repeated."""
        numbers = torch.arange(begin * self._frames, stop * self._frames, device=self._sequences.device)
        return (episode.first + numbers).clamp(max=episode.last - 1).unflatten(0, (-1, self._frames))

    def _count(self, episode: EpisodeSpan) -> int:
        """Number of an episode's latents."""
        return -(-(episode.last - episode.first) // self._frames)

    def _condition(self, arrivals: Tensor) -> Tensor:
        """Conditions [B, T, Q] of latents from the recorded controls into ``arrivals`` [B, T, F]."""
        flat = arrivals.flatten(1)
        return group_by_unit(self._conditions(self._sequences.controls[flat], flat), self._frames)


def _chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The latents ``start`` to before ``stop`` in parts, each as its first one and the one after its last."""
    for begin in range(start, stop, _CHUNK):
        yield begin, min(stop, begin + _CHUNK)
