"""The heads: camera motion, reward, and the probability that the episode continues.

Shapes: ... batch axes, B cameras, D agent width, S scene features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.casting import cast
from worldsim.model.dynamics import CollisionFn, Dynamics, MotionPrediction

REWARD_BINS = 41
"""Number of reward bins, evenly spaced in symlog from -5 to 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadsConfig:
    """Sizes of the heads."""

    twists: int = 4
    """Past twists and controls that dynamics see."""
    poses: bool = True
    """True where the source has poses."""
    camera_height: float = 0.0
    """Height of the camera at rest, in metres."""
    idle_damping: float | None = None
    """See ``Dynamics``."""
    uses_agent_token: bool = True
    """Reward and end read the agent feature beside the static scene; without a scene they always do.

    In a static scene they depend on position only, and the agent token inherits image errors."""
    end_weight: float = 1.0
    """Weight of an end over a frame that ends nothing while the heads learn; at play it is taken out."""


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def two_hot(value: Tensor) -> Tensor:
    """Reward [...] to weights over its two neighbouring bins [..., 41] (DreamerV3)."""
    position = (symlog(value).clamp(-5, 5) + 5) / 10 * (REWARD_BINS - 1)
    low = position.floor().clamp(max=REWARD_BINS - 2).long()
    part = (position - low)[..., None]
    return F.one_hot(low, REWARD_BINS) * (1 - part) + F.one_hot(low + 1, REWARD_BINS) * part


def expected_reward(logits: Tensor) -> Tensor:
    """Logits [..., 41] to a reward [...]: the symexp of the expected bin."""
    bins = torch.linspace(-5, 5, REWARD_BINS, device=logits.device)
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
        scene_feature_dim: int = 0,
        walkable_dim: int = 0,
        collision_dim: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.uses_agent_token = config.uses_agent_token or not scene_feature_dim
        """Reward and end are read from the agent feature."""
        dynamics = partial(
            Dynamics,
            control,
            (scene_feature_dim or agent) + walkable_dim,
            config.twists,
            config.camera_height,
        )
        self.motion = dynamics(config.idle_damping, collision_dim) if config.poses else None
        self.outcome = _mlp(scene_feature_dim + agent * self.uses_agent_token, 256, REWARD_BINS + 1, layers=3)

    def prepare(self, dtype: torch.dtype) -> None:
        """Cast to ``dtype`` for inference."""
        for module in self.children():
            cast(module, dtype)

    def predict_motion(
        self,
        agent: Tensor,
        features: Tensor | None,
        controls: Tensor,
        twists: Tensor,
        height: Tensor,
        collision_fn: CollisionFn | None = None,
    ) -> MotionPrediction:
        """The next step of the camera; see ``Dynamics``.

        Without a static scene, ``features`` is None and the agent token [B, D] is read.
        """
        assert self.motion is not None, "only a source with poses has motion"
        step: MotionPrediction = self.motion(
            agent if features is None else features, controls, twists, height, collision_fn
        )
        return step

    def predict_outcome(self, agent: Tensor, scene_features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reward logits [..., 41] and the continue logit [...] of the frame just made.

        ``agent`` [..., D] is read where ``uses_agent_token``, ``scene_features`` [..., S] where given. The
        weight of ends in training is taken out.
        """
        reward, continue_logit = self.outcome_logits(agent, scene_features)
        weight = self.config.end_weight
        return reward, continue_logit if weight == 1 else continue_logit + math.log(weight)

    def outcome_logits(self, agent: Tensor, scene_features: Tensor | None) -> tuple[Tensor, Tensor]:
        """As ``predict_outcome``, with ends as likely as they weighed in training."""
        known = [
            part for part in (scene_features, agent if self.uses_agent_token else None) if part is not None
        ]
        seen = known[0] if len(known) == 1 else torch.cat([part.float() for part in known], -1)
        out = self.outcome(seen.to(_dtype(self.outcome))).float()
        return out[..., :REWARD_BINS], out[..., REWARD_BINS]


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _mlp(inputs: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """``layers`` linear layers with SiLU between them."""
    sizes = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [BatchInvariantLinear(before, after), nn.SiLU()]
    return nn.Sequential(*parts[:-1])
