"""The action condition: a continuous action's numbers, and a learnt vector for "unknown".

Shapes: n numbers, E encoded channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldsim.controls import ActionBox, ControlSpace
from worldsim.errors import ConfigError
from worldsim.model.conditions import ConditionEncoder
from worldsim.registry import register

__all__ = ["ActionCondition", "ActionConditionConfig"]


@register("condition", "action")
@dataclass(frozen=True, kw_only=True, slots=True)
class ActionConditionConfig:
    """Config of ``ActionCondition``; the bounds are the control space's.

    Raises:
        ConfigError: a width below 1, or a rate outside [0, 1).
    """

    channel: ClassVar[str] = "action"
    width: int = 8
    """Length of the vector of the "unknown"."""
    unknown_rate: float = 0.1
    """Share of training clips whose action is unknown."""

    def __post_init__(self) -> None:
        if self.width < 1 or not 0 <= self.unknown_rate < 1:
            rule = "an action condition needs a width of at least 1 and a rate in [0, 1)"
            raise ConfigError(rule, (self.width, self.unknown_rate))

    def build(self, space: ControlSpace) -> ActionCondition:
        """The encoder of the actions of ``space``.

        Raises:
            ConfigError: the space takes none.
        """
        if space.action is None:
            rule = "an action condition needs a control space with a continuous action"
            raise ConfigError(rule, None, "set ControlSpace.action, or leave the condition out")
        return ActionCondition(space.action, self.width)


class ActionCondition(ConditionEncoder):
    """Numbers scaled to [-1, 1], then a vector that is learnt where they are unknown and 0 elsewhere.

    Generator and tokenizer begin with layers of their own, so that none is needed here; and all is done
    number by number, so that no row depends on its batch.
    """

    low: Tensor
    high: Tensor

    def __init__(self, box: ActionBox, width: int) -> None:
        super().__init__()
        self.size = box.size + width
        self.register_buffer("low", torch.tensor(box.low), persistent=False)
        self.register_buffer("high", torch.tensor(box.high), persistent=False)
        self.unknown = nn.Parameter(torch.randn(width))

    def forward(self, columns: Tensor) -> Tensor:
        """Encode columns [..., n + 1] as float32 [..., E]; see ``ActionBox.columns``.

        Numbers out of their bounds, which only a damaged snapshot has, are clamped.
        """
        known, numbers = columns[..., :1] > 0.5, columns[..., 1:].float()
        scaled = ((numbers - self.low) / (self.high - self.low) * 2 - 1).clamp(-1, 1)
        return torch.cat([torch.where(known, scaled, 0.0), torch.where(known, 0.0, self.unknown)], -1)
