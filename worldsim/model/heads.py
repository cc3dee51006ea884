"""What the agent feels: how the camera moves, the reward, whether the episode goes on.

Shapes: ... batch axes, B cameras, D agent width, S surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.alone import Alone
from worldsim.model.dynamics import Dynamics, Meeting, Prediction

BINS = 41
"""Of the reward, even in symlog from -5 to 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadsConfig:
    """Sizes of the heads."""

    width: int
    """Agent token width, D."""
    control: int
    """Keys and look, M."""
    surroundings: int = 0
    """Length of what the tokenizer tells of the surroundings; 0: none, the agent token is read instead."""
    felt: int = 0
    """Length of what a footing tells dynamics besides."""
    met: int = 0
    """Length of what it tells of what is in the way."""
    twists: int = 4
    """Past twists and controls that dynamics see."""
    poses: bool = True
    """Whether the source has poses."""
    eye: float = 0.0
    """Height of the camera at rest, in metres."""
    coasting: float | None = None
    """See ``Dynamics``."""


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

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        seen = config.surroundings or config.width
        self.motion = self._dynamics(seen + config.felt) if config.poses else None
        self.outcome = _perceptron(seen, 256, BINS + 1, layers=3)

    def _dynamics(self, around: int) -> Dynamics:
        config = self.config
        return Dynamics(config.control, around, config.twists, config.eye, config.coasting, config.met)

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
        """Reward logits [..., 41] and the logit of going on [...], from the place or the frame just made.

        A still place pays for where one is: the agent's token, which errs with the picture, is not asked.
        """
        seen = agent if surroundings is None else surroundings
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
