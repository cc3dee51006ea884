"""The three networks of a world, built from one config: tokenizer, generator, heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from worldsim.model.generator import Generator, GeneratorConfig
from worldsim.model.heads import Heads, HeadsConfig
from worldsim.tokenizer.build import build_tokenizer
from worldsim.tokenizer.frame import FrameConfig
from worldsim.tokenizer.history import HistoryConfig
from worldsim.units import Frame


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworksConfig:
    """All that is needed to build the networks."""

    generator: GeneratorConfig
    heads: HeadsConfig
    history: HistoryConfig | None = None
    """The tokenizer whose decoder sees the past; exactly one of ``history`` and ``frame`` is given."""
    frame: FrameConfig | None = None
    """The per-frame tokenizer."""
    twist_scale: tuple[float, ...] = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    """Twists are divided by this: metres (3) and radians (3) per frame that count as 1; 0: this component never moves."""


class Networks(nn.Module):
    """Tokenizer, generator and heads."""

    def __init__(self, config: NetworksConfig) -> None:
        super().__init__()
        self.config = config
        tokenizer = config.history or config.frame
        assert tokenizer is not None, "a networks config names a tokenizer"
        self.tokenizer = build_tokenizer(tokenizer)
        self.generator = Generator(config.generator, Frame(tokens=self.tokenizer.tokens, grid=self.tokenizer.grid))
        self.heads = Heads(config.heads)

    def normalise(self, twist: np.ndarray) -> np.ndarray:
        """Twists [..., 6] in metres and radians to multiples of the scale, float32."""
        scale = np.asarray(self.config.twist_scale)
        return (twist / np.where(scale > 0, scale, 1)).astype(np.float32)

    @property
    def has_poses(self) -> bool:
        return self.config.heads.poses

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
