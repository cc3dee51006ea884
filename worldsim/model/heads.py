"""What the agent feels: how the camera moves, the reward, whether the episode goes on.

Shapes: ... batch axes, D agent width, S surroundings, M keys and look, P past twists, 6 twist.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    twists: int = 4
    """Past twists that the motion head sees."""
    poses: bool = True
    """Whether the source has poses."""
    coasting: float | None = None
    """Without keys and look the camera moves and turns by at most this share of its last step: what nobody
    pushes slows down. None: no such rule. Recordings hardly show idleness, and small errors would add up to
    a walk."""


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
        hidden = 256
        state = seen + config.control + 6 * config.twists
        self.motion = _perceptron(state, hidden, 6, layers=4) if config.poses else None
        self.outcome = _perceptron(seen, hidden, BINS + 1, layers=3)

    def move(self, agent: Tensor, surroundings: Tensor | None, control: Tensor, twists: Tensor) -> Tensor:
        """The next normalised twist [..., 6] of the camera, from the state before and the keys now.

        ``agent`` [..., D], ``surroundings`` [..., S], ``control`` [..., M],
        ``twists`` [..., P, 6], newest last.
        """
        assert self.motion is not None, "only a source with poses has motion"
        seen = surroundings if surroundings is not None else agent
        state = torch.cat([seen, control, twists.flatten(-2)], -1)
        twist = self.motion(state.to(_dtype(self.motion))).float()
        if self.config.coasting is None:
            return twist
        idle = (control == 0).all(-1, keepdim=True)
        return torch.where(idle, _slowed(twist, twists[..., -1, :], self.config.coasting), twist)

    def judge(self, agent: Tensor, surroundings: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reward logits [..., 41] and the logit of going on [...], from the place or the frame just made.

        A still place pays for where one is: the agent's token, which errs with the picture, is not asked.
        """
        seen = agent if surroundings is None else surroundings
        out = self.outcome(seen.to(_dtype(self.outcome))).float()
        return out[..., :BINS], out[..., BINS]


def _slowed(twist: Tensor, last: Tensor, share: float) -> Tensor:
    """``twist`` [..., 6]: translation and rotation, each no longer than ``share`` of that of ``last``."""
    both, before = twist.unflatten(-1, (2, 3)), last.unflatten(-1, (2, 3))
    limit = share * before.norm(dim=-1, keepdim=True)
    return (both * (limit / both.norm(dim=-1, keepdim=True).clamp(min=1e-9)).clamp(max=1)).flatten(-2)


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _perceptron(inputs: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """``layers`` linear layers with SiLU between them."""
    sizes = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*parts[:-1])
