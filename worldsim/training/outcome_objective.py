"""Objective of the outcome stage: reward and end over a frozen generator.

Features of every arrival are computed once, episode by episode, with the whole past as at inference; only a
small network over them is trained. Ends are few: a generator that is trained on them with all else overfits.

Shapes: R rows, N tokens, D features, E episodes, T arrivals of the longest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldsim.model.recurrent import RecurrentGenerator
from worldsim.networks import Networks
from worldsim.training.latent_dynamics_objective import LatentDynamicsObjective, outcome_loss
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs
from worldsim.utils.mixed_precision import mixed_precision

_EPISODES = 16
"""Episodes that are encoded at once."""


class OutcomeObjective:
    """The objective of the outcome stage; see the module's docstring."""

    def __init__(
        self, networks: Networks, sequences: Sequences, dynamics: LatentDynamicsObjective, batch: int
    ) -> None:
        assert isinstance(networks.generator, RecurrentGenerator)
        self._networks, self._generator, self._sequences = networks, networks.generator, sequences
        self._latents, self._conditions, self._batch = dynamics.latents, dynamics.conditions, batch
        self._features: Tensor | None = None
        self._known = np.flatnonzero(~sequences.is_first)

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        if self._features is None:
            torch.manual_seed(int(rng.integers(2**62)))
            self._features = self._encode_all()
        rows = torch.from_numpy(rng.choice(self._known, self._batch)).to(self._sequences.device)
        agent = self._generator.agent(self._features[rows].float())
        return outcome_loss(self._networks.heads, self._sequences, rows, agent, torch.ones_like(agent[:, 0]))

    @torch.no_grad()
    def _encode_all(self) -> Tensor:
        """Return the features that lead to each arrival, float16 [A, N, D]; 0 at an episode's first."""
        sequences, generator = self._sequences, self._generator
        shape = (len(sequences), generator.tokens, generator.config.width)
        features = torch.zeros(shape, dtype=torch.half, device=sequences.device)
        firsts = np.flatnonzero(sequences.is_first)
        lengths = np.diff(np.append(firsts, len(sequences)))
        order = np.argsort(lengths)
        with mixed_precision(sequences.device.type):
            for some in np.array_split(order, -(-len(order) // _EPISODES)):
                self._encode_episodes(firsts[some], lengths[some], features)
        return features

    def _encode_episodes(self, firsts: np.ndarray, lengths: np.ndarray, features: Tensor) -> None:
        """Fill in the features of episodes that begin at the arrivals ``firsts`` [E]."""
        steps = np.arange(int(lengths.max()))
        valid = torch.from_numpy(steps < lengths[:, None])
        arrivals = torch.from_numpy(np.minimum(firsts[:, None] + steps, (firsts + lengths - 1)[:, None]))
        arrivals, valid = arrivals.to(features.device), valid.to(features.device)
        latents = self._latents.sample(self._sequences.frame[arrivals])
        condition = self._conditions(self._sequences.controls[arrivals], arrivals)
        made, _ = self._generator.clip(latents[:, :-1], condition[:, 1:])
        features[arrivals[:, 1:][valid[:, 1:]]] = made[valid[:, 1:]].half()
