"""Objective of the outcome stage: reward and end over a frozen generator.

Features of every arrival are computed once, episode by episode, with the whole past as at inference; only a
small network over them is trained. Ends are few: a generator that is trained on them with all else overfits.
An agent's memory learns from whole episodes: what it must keep may lie a minute back.

Shapes: R rows, N tokens, D features, E episodes, T arrivals of the longest.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.model.recurrent import RecurrentGenerator
from worldsim.networks import Networks
from worldsim.training.latent_dynamics_objective import LatentDynamicsObjective, outcome_loss
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs
from worldsim.utils.mixed_precision import mixed_precision
from worldsim.utils.progress import ProgressReporter

_EPISODES = 256
"""Episodes that are encoded at once."""
_EPOCHS = 4.0
"""Times that all arrivals are seen, then the stage ends: at 14 held-out ends are foretold worse."""
_DROPOUT = 0.1
"""Share of features that whole episodes are learnt without: a memory learns few ends by heart."""


class OutcomeObjective:
    """The objective of the outcome stage; see the module's docstring.

    Args:
        networks: with a recurrent generator.
        sequences: the data.
        dynamics: the objective of the stage before, whose latents and conditions are read.
        batch: arrivals in a step, about as many where whole episodes are learnt.
    """

    def __init__(
        self, networks: Networks, sequences: Sequences, dynamics: LatentDynamicsObjective, batch: int
    ) -> None:
        assert isinstance(networks.generator, RecurrentGenerator)
        self._networks, self._generator, self._sequences = networks, networks.generator, sequences
        self._latents, self._conditions, self._batch = dynamics.latents, dynamics.conditions, batch
        self._features: Tensor | None = None
        self._seen = 0
        self._known = np.flatnonzero(~sequences.is_first)
        self._firsts = np.flatnonzero(sequences.is_first)
        self._lengths = np.diff(np.append(self._firsts, len(sequences)))

    def start(self) -> Tensor:
        """Compute all features, unless they are there; before the stage's first step."""
        if self._features is None:
            self._features = self._encode_all()
        return self._features

    def verdict(self) -> str | None:
        """Return why the stage must end: all arrivals have been seen often enough; None: it goes on."""
        if self._seen < _EPOCHS * len(self._sequences):
            return None
        return f"all {len(self._sequences)} frames have been seen {_EPOCHS:g} times"

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        features = self.start()
        self._seen += self._batch
        torch.manual_seed(int(rng.integers(2**62)))
        if self._generator.agent_memory is not None:
            return self._of_episodes(features, self.draw_episodes(rng))
        rows = torch.from_numpy(rng.choice(self._known, self._batch)).to(self._sequences.device)
        agent = self._generator.agent_inputs(features[rows].float())
        return outcome_loss(self._networks.heads, self._sequences, rows, agent, torch.ones_like(agent[:, 0]))

    def _of_episodes(self, features: Tensor, episodes: np.ndarray) -> tuple[Tensor, Logs]:
        """Loss of whole episodes of the numbers ``episodes`` [E]."""
        arrivals, valid = self._arrivals(episodes)
        arrivals, valid = arrivals[:, 1:], valid[:, 1:]
        agent = self._generator.agent_clip(F.dropout(features[arrivals].float(), _DROPOUT))
        return outcome_loss(self._networks.heads, self._sequences, arrivals, agent, valid.float())

    def draw_episodes(self, rng: np.random.Generator) -> np.ndarray:
        """Numbers of episodes of about the same length, with as many arrivals as a batch has.

        All arrivals are about equally likely: episodes in the order of their lengths, which are taken a tenth
        longer or shorter each time, are cut into batches, and one of these is drawn.
        """
        order = np.argsort(self._lengths * rng.uniform(0.9, 1.1, len(self._lengths)))
        before = np.cumsum(self._lengths[order]) - self._lengths[order]
        batches = before // self._batch
        some: np.ndarray = order[batches == rng.choice(np.unique(batches))]
        return some

    @torch.no_grad()
    def _encode_all(self) -> Tensor:
        """Return the features that lead to each arrival, float16 [A, N, D]; 0 at an episode's first."""
        sequences, generator = self._sequences, self._generator
        shape = (len(sequences), generator.tokens, generator.config.width)
        features = torch.zeros(shape, dtype=torch.half, device=sequences.device)
        order, done, quick = np.argsort(self._lengths), 0, self._by_kernels()
        with mixed_precision(sequences.device.type), ProgressReporter("encoding", len(sequences)) as reporter:
            for some in np.array_split(order, -(-len(order) // _EPISODES)):
                self._encode_episodes(some, features, quick)
                done += int(self._lengths[some].sum())
                reporter.update(done, f"features of {done} frames")
        return features

    def _by_kernels(self) -> RecurrentGenerator | None:
        """A copy of the generator that steps by kernels, eight times as fast as clips.

        None where kernels do not support it.
        """
        if self._sequences.device.type != "cpu" or not self._generator.supports_kernels:
            return None
        quick = deepcopy(self._generator).eval()
        quick.prepare_inference(torch.float32)
        return quick

    def _encode_episodes(
        self, episodes: np.ndarray, features: Tensor, quick: RecurrentGenerator | None
    ) -> None:
        """Fill in the features of the episodes of the numbers ``episodes`` [E]."""
        arrivals, valid = self._arrivals(episodes)
        latents = self._latents.sample(self._sequences.frame[arrivals])
        condition = self._conditions(self._sequences.controls[arrivals], arrivals)
        if quick is None:
            made, _ = self._generator.clip(latents[:, :-1], condition[:, 1:])
        else:
            made = _one_by_one(quick, latents.float(), condition.float())
        features[arrivals[:, 1:][valid[:, 1:]]] = made[valid[:, 1:]].half()

    def _arrivals(self, episodes: np.ndarray) -> tuple[Tensor, Tensor]:
        """Numbers int64 [E, T] of the episodes' arrivals, the last repeated; which exist, bool [E, T]."""
        firsts, lengths = self._firsts[episodes], self._lengths[episodes]
        steps = np.arange(int(lengths.max()))
        arrivals = np.minimum(firsts[:, None] + steps, (firsts + lengths - 1)[:, None])
        given = (torch.from_numpy(arrivals), torch.from_numpy(steps < lengths[:, None]))
        return given[0].to(self._sequences.device), given[1].to(self._sequences.device)


def _one_by_one(generator: RecurrentGenerator, latents: Tensor, conditions: Tensor) -> Tensor:
    """Features [E, T - 1, N, D] that lead to each latent [E, T, N, C] but the first."""
    state, features = generator.initial_state(len(latents)), []
    for t in range(latents.shape[1]):
        prepared = generator.prepare(state, latents[:, t], conditions[:, t], 0)  # prior tokens are not read
        features.append(prepared.features)
        generator.commit(state, prepared, latents[:, t], False)
    return torch.stack(features[1:], 1)
