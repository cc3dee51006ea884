"""Features that the outcome stage learns from: after recorded pasts, and after pasts that were imagined.

They are computed once, episode by episode, with the whole past as at inference.

Shapes: A arrivals of all episodes, E episodes, T arrivals of the longest of them, N tokens, D features.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.model.recurrent import RecurrentGenerator
from worldsim.networks import TWIST, Networks
from worldsim.training.latent_dynamics_objective import LatentDynamicsObjective
from worldsim.training.sequences import Sequences
from worldsim.utils.mixed_precision import mixed_precision
from worldsim.utils.progress import ProgressReporter

_EPISODES = 256
"""Episodes that are encoded at once."""
_TOKENS = 2**16
"""Tokens of clips that are encoded at once: attention over an episode takes memory by its length squared."""
_BEGINS, _ENDS = 1 / 8, 1 / 3
"""Chance that a run of imagined frames begins or ends at a frame. Runs are short, three frames on average: a
longer one leaves the recorded past, and reward and end would be learnt without their causes."""


@dataclass(frozen=True, slots=True)
class EpisodeFeatures:
    """Features that lead to each arrival, float16 [A, N, D]; 0 at an episode's first."""

    recorded: Tensor
    """After a past of recorded frames."""
    imagined: Tensor | None
    """After a past in which some frames are imagined; None where none was asked for."""
    is_imagined: Tensor
    """Arrivals with an imagined frame in their past, bool [A]."""


class OutcomeFeatures:
    """Computes the features of all arrivals by a trained generator.

    Args:
        networks: with a recurrent generator.
        sequences: the data.
        dynamics: the objective whose latents and conditions are read.
    """

    def __init__(self, networks: Networks, sequences: Sequences, dynamics: LatentDynamicsObjective) -> None:
        assert isinstance(networks.generator, RecurrentGenerator)
        self._networks, self._generator, self._sequences = networks, networks.generator, sequences
        self._latents, self._conditions = dynamics.latents, dynamics.conditions
        self.firsts = np.flatnonzero(sequences.is_first)
        """Arrivals that begin the episodes, int64 [episodes]."""
        self.lengths = np.diff(np.append(self.firsts, len(sequences)))
        """Arrivals of the episodes, int64 [episodes]."""

    def arrivals(self, episodes: np.ndarray) -> tuple[Tensor, Tensor]:
        """Numbers int64 [E, T] of the episodes' arrivals, the last repeated; which exist, bool [E, T]."""
        firsts, lengths = self.firsts[episodes], self.lengths[episodes]
        steps = np.arange(int(lengths.max()))
        arrivals = np.minimum(firsts[:, None] + steps, (firsts + lengths - 1)[:, None])
        given = (torch.from_numpy(arrivals), torch.from_numpy(steps < lengths[:, None]))
        return given[0].to(self._sequences.device), given[1].to(self._sequences.device)

    @torch.no_grad()
    def encode(self, imagined: bool) -> EpisodeFeatures:
        """Return the features of all arrivals, also after imagined pasts if they are asked for."""
        sequences, count = self._sequences, len(self._sequences)
        device, shape = sequences.device, (self._generator.tokens, self._generator.config.width)
        recorded = torch.zeros(count, *shape, dtype=torch.half, device=device)
        own = torch.zeros_like(recorded) if imagined else None
        is_imagined = torch.zeros(count, dtype=torch.bool, device=device)
        by_kernels, done = self._by_kernels(), 0
        groups = self._groups(_EPISODES if by_kernels is not None else self._together())
        total = count * (1 + imagined)
        with mixed_precision(device.type), ProgressReporter("encoding", total) as reporter:
            for episodes in groups:
                self._encode_recorded(episodes, recorded, by_kernels)
                if own is not None:
                    self._encode_imagined(episodes, own, is_imagined, by_kernels or self._generator)
                done += int(self.lengths[episodes].sum()) * (1 + imagined)
                reporter.update(done, f"features of {done} frames")
        return EpisodeFeatures(recorded, own, is_imagined)

    def _groups(self, most: int) -> list[np.ndarray]:
        """Numbers of the episodes, at most ``most`` together, of like lengths."""
        return np.array_split(np.argsort(self.lengths), -(-len(self.lengths) // most))

    def _together(self) -> int:
        """Episodes whose clips are encoded at once."""
        longest = int(self.lengths.max()) * self._generator.tokens
        return min(_EPISODES, max(1, _TOKENS // longest))

    def _by_kernels(self) -> RecurrentGenerator | None:
        """A copy of the generator that steps by kernels, eight times as fast as clips.

        None where kernels do not support it.
        """
        if self._sequences.device.type != "cpu" or not self._generator.supports_kernels:
            return None
        quick = deepcopy(self._generator).eval()
        quick.prepare_inference(torch.float32)
        return quick

    def _inputs(self, arrivals: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [E, T, N, C] of ``arrivals`` [E, T], and the conditions [E, T, Q] that lead to them."""
        latents = self._latents.sample(self._sequences.frame[arrivals])
        return latents, self._conditions(self._sequences.controls[arrivals], arrivals)

    def _encode_recorded(
        self, episodes: np.ndarray, features: Tensor, by_kernels: RecurrentGenerator | None
    ) -> None:
        """Fill in the features of the episodes of the numbers ``episodes`` [E]."""
        arrivals, valid = self.arrivals(episodes)
        latents, condition = self._inputs(arrivals)
        if by_kernels is None:
            made, _ = self._generator.clip(latents[:, :-1], condition[:, 1:])
        else:
            made = self._step(by_kernels, latents.float(), condition.float(), torch.zeros_like(valid))
        features[arrivals[:, 1:][valid[:, 1:]]] = made[valid[:, 1:]].half()

    def _encode_imagined(
        self, episodes: np.ndarray, features: Tensor, is_imagined: Tensor, generator: RecurrentGenerator
    ) -> None:
        """Fill in ``features`` of the episodes, and ``is_imagined`` [A].

        Every now and then some frames in a row are imagined, and the recorded ones go on after them.
        """
        arrivals, valid = self.arrivals(episodes)
        own = _imagined_runs(valid)
        latents, condition = self._inputs(arrivals)
        made = self._step(generator, latents.float(), condition.float(), own)
        valid, begun = valid[:, 1:], own.cumsum(1)[:, :-1] > 0
        features[arrivals[:, 1:][valid]] = made[valid].half()
        is_imagined[arrivals[:, 1:][begun & valid]] = True

    def _step(
        self, generator: RecurrentGenerator, latents: Tensor, conditions: Tensor, own: Tensor
    ) -> Tensor:
        """Features [E, T - 1, N, D] that lead to each latent [E, T, N, C] but the first, one by one.

        Where ``own``, bool [E, T], the generator's own sample stands in the place of the latent.
        """
        state, features = generator.initial_state(len(latents)), []
        sampler, dreams = self._networks.sampler, own.any(0).tolist()
        scale = self._networks.noise_scale(latents.new_zeros(len(latents), TWIST))[:, None, None]
        for t in range(latents.shape[1]):
            steps = sampler.default_steps if dreams[t] else 0
            prior = latents[:, t]  # is not read
            prepared = generator.prepare(state, prior, conditions[:, t], steps)
            features.append(prepared.features)
            latent = latents[:, t]
            if dreams[t]:
                noise = scale * torch.randn_like(latent)  # as at play
                drawn = sampler.draw(generator, prepared, noise, steps)
                latent = torch.where(own[:, t, None, None], drawn, latent)
            generator.commit(state, prepared, latent, False)
        return torch.stack(features[1:], 1)


def _imagined_runs(valid: Tensor) -> Tensor:
    """Frames to be imagined, bool [E, T], among those that exist; an episode's first is recorded."""
    own, chance = torch.zeros_like(valid), torch.rand(valid.shape, device=valid.device)
    for t in range(1, valid.shape[1]):
        own[:, t] = torch.where(own[:, t - 1], chance[:, t] >= _ENDS, chance[:, t] < _BEGINS)
    return own & valid
