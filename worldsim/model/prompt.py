"""The prompt condition: a learnt vector for each of a world's prompts, and one for "unknown".

Shapes: P prompts, E width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldsim.controls import ControlSpace
from worldsim.errors import ConfigError
from worldsim.model.conditions import ConditionEncoder
from worldsim.registry import register

__all__ = ["PromptCondition", "PromptConditionConfig"]


@register("condition", "prompt")
@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConditionConfig:
    """Config of ``PromptCondition``; the prompts themselves are the control space's.

    Raises:
        ConfigError: a width below 1, or a rate outside [0, 1).
    """

    channel: ClassVar[str] = "prompt"
    width: int = 16
    """Length of a prompt's vector, E."""
    unknown_rate: float = 0.1
    """Share of training clips whose prompt is unknown."""

    def __post_init__(self) -> None:
        if self.width < 1 or not 0 <= self.unknown_rate < 1:
            rule = "a prompt condition needs a width of at least 1 and a rate in [0, 1)"
            raise ConfigError(rule, (self.width, self.unknown_rate))

    def build(self, space: ControlSpace) -> PromptCondition:
        """The encoder of the prompts of ``space``."""
        return PromptCondition(len(space.prompts), self.width)


class PromptCondition(ConditionEncoder):
    """Numbers of prompts to vectors: a look-up, so that no row depends on its batch."""

    def __init__(self, prompts: int, width: int) -> None:
        super().__init__()
        self.size = width
        self.table = nn.Parameter(torch.randn(prompts, width))
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, columns: Tensor) -> Tensor:
        """Vectors float32 [..., E] of prompts' numbers [..., 1], from 1; the unknown for 0.

        Numbers out of range, which only a damaged snapshot has, are clamped.
        """
        number = columns[..., 0].round().long().clamp(0, len(self.table))
        return torch.cat([self.unknown[None], self.table])[number]
