"""Objective of the outcome stage of next-scale worlds: reward and end over a frozen generator.

Inputs of the agent feature are computed once; only the agent feature's last layer and the heads are trained.
Ends are few: a generator that is trained on them with all else overfits.

A share of the arrivals follows an imagined past, with the recorded controls, reward and end, as MuZero learns
rewards on its own unrolled states (Schrittwieser et al. 2020). Heads that have seen recorded pasts alone
expect too few ends where what kills is imagined too faintly or elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.networks import Networks
from worldsim.training.latent_dynamics_objective import outcome_loss
from worldsim.training.next_scale_objective import NextScaleObjective, next_scale
from worldsim.training.next_scale_pasts import ArrivalInputs, NextScalePasts
from worldsim.training.sequences import Sequences
from worldsim.training.stage import Logs

_DROPOUT = 0.3
"""Share of inputs that are dropped at random: a few hundred ends are learnt by heart otherwise."""
_SEED = 0
"""Seed of the imagined pasts: a resumed stage imagines the same ones."""


class NextScaleOutcomeObjective:
    """The objective of the outcome stage; see the module's docstring.

    Args:
        networks: with a next-scale generator.
        sequences: the data.
        dynamics: the objective of the stage before, whose planes and conditions are read.
        batch: arrivals in a step.
        imagined: share of the arrivals that follow an imagined past, in [0, 1]. None do in worlds with poses:
            at play their poses are imagined, too.
    """

    def __init__(
        self,
        networks: Networks,
        sequences: Sequences,
        dynamics: NextScaleObjective,
        batch: int,
        imagined: float = 0.0,
    ) -> None:
        self._networks, self._generator = networks, next_scale(networks)
        self._sequences, self._batch = sequences, batch
        self._share = 0.0 if networks.has_poses else imagined
        self.pasts = NextScalePasts(networks, sequences, dynamics)
        self._recorded: ArrivalInputs | None = None
        self._imagined: ArrivalInputs | None = None

    def start(self) -> None:
        """Imagine pasts, unless it is done or none are asked for; before the stage's first step."""
        if self._share and self._imagined is None:
            self._imagined = self.pasts.imagined(np.random.default_rng(_SEED))
            if self._imagined is None:
                self._share = 0.0

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        self.start()
        if self._recorded is None:
            self._recorded = self.pasts.recorded(rng)
        torch.manual_seed(int(rng.integers(2**62)))
        drawn = self._draw(self._recorded, rng)
        agent = self._generator.agent_of(F.dropout(drawn.inputs.float(), _DROPOUT))
        weight = torch.ones_like(agent[:, 0])
        return outcome_loss(self._networks.heads, self._sequences, drawn.arrivals, agent, weight)

    def _draw(self, recorded: ArrivalInputs, rng: np.random.Generator) -> ArrivalInputs:
        """A batch, each arrival of which follows an imagined past by the share of these."""
        if self._imagined is None:
            return recorded.draw(self._batch, rng)
        count = int(rng.binomial(self._batch, self._share))
        return ArrivalInputs.joined(
            [recorded.draw(self._batch - count, rng), self._imagined.draw(count, rng)]
        )
