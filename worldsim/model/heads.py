"""What the agent feels: how the camera moves, the reward, whether the episode goes on.

Shapes: ... batch axes, B cameras, D agent width, S surroundings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.alone import Alone
from worldsim.casting import cast
from worldsim.model.dynamics import Dynamics, Meeting, Prediction

BINS = 41
"""Of the reward, even in symlog from -5 to 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadsConfig:
    """Sizes of the heads."""

    twists: int = 4
    """Past twists and controls that dynamics see."""
    poses: bool = True
    """Whether the source has poses."""
    eye: float = 0.0
    """Height of the camera at rest, in metres."""
    coasting: float | None = None
    """See ``Dynamics``."""
    reads_agent: bool = True
    """Reward and end read the agent feature beside the static scene; without a scene they always do.

    In one still place they follow from where one is, and the agent feature errs with the picture."""
    end_weight: float = 1.0
    """Weight of an end over a frame that ends nothing while the heads learn; at play it is taken out."""


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def two_hot(value: Tensor) -> Tensor:
    """Reward [...] to weights over its two neighbouring bins [..., 41] (DreamerV3)."""
    place = (symlog(value).clamp(-5, 5) + 5) / 10 * (BINS - 1)
    low = place.floor().clamp(max=BINS - 2).long()
    part = (place - low)[..., None]
    return F.one_hot(low, BINS) * (1 - part) + F.one_hot(low + 1, BINS) * part


def expected(logits: Tensor) -> Tensor:
    """Logits [..., 41] to a reward [...]: the symexp of the expected bin."""
    bins = torch.linspace(-5, 5, BINS, device=logits.device)
    mean = (logits.float().softmax(-1) * bins).sum(-1)
    return mean.sign() * mean.abs().expm1()


class Heads(nn.Module):
    """Motion before the frame is made; reward and continuation after."""

    def __init__(
        self,
        config: HeadsConfig,
        *,
        agent: int,
        control: int,
        surroundings: int = 0,
        felt: int = 0,
        met: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.reads_agent = config.reads_agent or not surroundings
        """Reward and end are read from the agent feature."""
        dynamics = partial(Dynamics, control, (surroundings or agent) + felt, config.twists, config.eye)
        self.motion = dynamics(config.coasting, met) if config.poses else None
        self.outcome = _perceptron(surroundings + agent * self.reads_agent, 256, BINS + 1, layers=3)

    def prepare(self, dtype: torch.dtype) -> None:
        """Cast to ``dtype`` for inference."""
        for module in self.children():
            cast(module, dtype)

    def move(
        self,
        agent: Tensor,
        around: Tensor | None,
        controls: Tensor,
        twists: Tensor,
        height: Tensor,
        meet: Meeting | None = None,
    ) -> Prediction:
        """The next step of the camera; see ``Dynamics``.

        Without surroundings, ``around`` is None and the agent token [B, D] is read.
        """
        assert self.motion is not None, "only a source with poses has motion"
        step: Prediction = self.motion(agent if around is None else around, controls, twists, height, meet)
        return step

    def judge(self, agent: Tensor, surroundings: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reward logits [..., 41] and the logit of going on [...], from the place and the frame just made.

        ``agent`` [..., D] is read where ``reads_agent``, ``surroundings`` [..., S] where they are given. The
        weight that ends had in training is taken out.
        """
        reward, going_on = self.outcome_logits(agent, surroundings)
        weight = self.config.end_weight
        return reward, going_on if weight == 1 else going_on + math.log(weight)

    def outcome_logits(self, agent: Tensor, surroundings: Tensor | None) -> tuple[Tensor, Tensor]:
        """As ``judge``, with ends as likely as they weighed in training."""
        known = [part for part in (surroundings, agent if self.reads_agent else None) if part is not None]
        seen = known[0] if len(known) == 1 else torch.cat([part.float() for part in known], -1)
        out = self.outcome(seen.to(_dtype(self.outcome))).float()
        return out[..., :BINS], out[..., BINS]


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _perceptron(inputs: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """``layers`` linear layers with SiLU between them."""
    sizes = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [Alone(before, after), nn.SiLU()]
    return nn.Sequential(*parts[:-1])
