"""Objective of the outcome stage: reward and end over a frozen generator.

Features of every arrival are computed once; only a small network over them is trained. Ends are few: a
generator that is trained on them with all else overfits. An agent's memory learns from whole episodes: what
it must keep may lie a minute back.

A share of the features follows an imagined past, under the recorded controls, with the recorded reward and
end, as MuZero learns rewards on its own unrolled states (Schrittwieser et al. 2020). Heads that have seen
recorded pasts alone expect too few ends where what kills is imagined too faintly or elsewhere; a policy finds
such dreams.

Shapes: R rows, N tokens, D features, E episodes, T arrivals of the longest.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.model.recurrent import RecurrentGenerator
from worldsim.networks import Networks
from worldsim.training.latent_dynamics_objective import LatentDynamicsObjective, outcome_loss
from worldsim.training.outcome_features import EpisodeFeatures, OutcomeFeatures
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs

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
        imagined: share of the arrivals (of the steps, where whole episodes are learnt) that follow an
            imagined past, in [0, 1].
    """

    def __init__(
        self,
        networks: Networks,
        sequences: Sequences,
        dynamics: LatentDynamicsObjective,
        batch: int,
        imagined: float = 0.0,
    ) -> None:
        assert isinstance(networks.generator, RecurrentGenerator)
        self._networks, self._generator, self._sequences = networks, networks.generator, sequences
        self._batch, self._imagined = batch, imagined
        self._encoder = OutcomeFeatures(networks, sequences, dynamics)
        self._features: EpisodeFeatures | None = None
        self._seen = 0
        self._known = np.flatnonzero(~sequences.is_first)

    def start(self) -> EpisodeFeatures:
        """Compute all features, unless they are there; before the stage's first step."""
        if self._features is None:
            self._features = self._encoder.encode(imagined=self._imagined > 0)
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
            return self._of_episodes(features, self.draw_episodes(rng), bool(rng.random() < self._imagined))
        rows, taken = self._draw_rows(features, rng)
        agent = self._generator.agent_inputs(taken)
        return outcome_loss(self._networks.heads, self._sequences, rows, agent, torch.ones_like(agent[:, 0]))

    def _draw_rows(self, features: EpisodeFeatures, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Arrivals int64 [R] and the features float32 [R, N, D] that lead to them, some after dreams."""
        device = self._sequences.device
        dreamt = features.is_imagined.nonzero()[:, 0].cpu().numpy()
        share = self._imagined if len(dreamt) else 0.0
        count = int(rng.binomial(self._batch, share))
        recorded = torch.from_numpy(rng.choice(self._known, self._batch - count)).to(device)
        if features.imagined is None or not count:
            return recorded, features.recorded[recorded].float()
        imagined = torch.from_numpy(rng.choice(dreamt, count)).to(device)
        taken = (features.recorded[recorded].float(), features.imagined[imagined].float())
        return torch.cat([recorded, imagined]), torch.cat(taken)

    def _of_episodes(
        self, features: EpisodeFeatures, episodes: np.ndarray, dreamt: bool
    ) -> tuple[Tensor, Logs]:
        """Loss of whole episodes of the numbers ``episodes`` [E]; ``dreamt``: parts of them are imagined."""
        arrivals, valid = (part[:, 1:] for part in self._encoder.arrivals(episodes))
        taken = features.recorded
        if dreamt and features.imagined is not None:
            taken = features.imagined
        agent = self._generator.agent_clip(F.dropout(taken[arrivals].float(), _DROPOUT))
        return outcome_loss(self._networks.heads, self._sequences, arrivals, agent, valid.float())

    def draw_episodes(self, rng: np.random.Generator) -> np.ndarray:
        """Numbers of episodes of about the same length, with as many arrivals as a batch has.

        All arrivals are about equally likely: episodes in the order of their lengths, which are taken a tenth
        longer or shorter each time, are cut into batches, and one of these is drawn.
        """
        lengths = self._encoder.lengths
        order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(lengths)))
        before = np.cumsum(lengths[order]) - lengths[order]
        batches = before // self._batch
        some: np.ndarray = order[batches == rng.choice(np.unique(batches))]
        return some
