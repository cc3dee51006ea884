"""What the judge is trained on: clips, later what it saw in clips; and what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.evaluation.judge_disturbance import disturbed
from worldsim.evaluation.judge_footage import Footage
from worldsim.evaluation.judge_loss import Truth
from worldsim.evaluation.judge_network import JudgeConfig, JudgeNetwork
from worldsim.pixels import to_model

__all__ = ["Lessons", "Seen"]

_KEPT = 40
"""Frames of the clips of which is kept what is seen."""
_AT_ONCE = 4
"""Of these clips."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network saw in C clips of T frames, and what is true of them."""

    look: Tensor
    """bfloat16 [C, T, S]."""
    pair: Tensor
    """bfloat16 [C, T - 1, S]."""
    truth: Truth
    """Of these clips."""
    rng: np.random.Generator
    """Of the draws."""

    @property
    def length(self) -> int:
        """T."""
        return self.look.shape[1]

    def draw(self, clips: int) -> tuple[Tensor, Tensor, Truth]:
        """A batch of so many of the clips, in float32."""
        some = torch.from_numpy(self.rng.integers(len(self.look), size=clips))
        truth = Truth(self.truth.track[some], self.truth.held[some], self.truth.weight)
        return self.look[some].float(), self.pair[some].float(), truth


class Lessons:
    """Clips of real frames, disturbed."""

    def __init__(self, footage: Footage, config: JudgeConfig, rng: np.random.Generator) -> None:
        self._footage, self._rng, self._keys = footage, rng, len(config.keys)
        self._starts: dict[int, np.ndarray] = {}
        self._origin = np.array([*config.centre, 0.0])
        down = footage.controls[:, : self._keys].mean(0).clip(0.02, 0.98)
        self._weight = torch.from_numpy((1 - down) / down).float()

    def draw(self, length: int, clips: int) -> tuple[Tensor, Truth]:
        """So many clips [B, T, 3, 60, 80] of this length."""
        if length not in self._starts:
            self._starts[length] = self._footage.starts(length)
        starts = self._rng.choice(self._starts[length], clips)
        frames, controls, tracks = self._footage.clips(starts, length)
        held = torch.from_numpy(controls[:, 1:, : self._keys])
        truth = Truth(torch.from_numpy(tracks - self._origin).float(), held, self._weight)
        return disturbed(to_model(frames), self._rng), truth

    def seen_by(self, network: JudgeNetwork, is_time: Callable[[], bool]) -> Seen:
        """What the network sees in as many clips as make up the footage, or as there is time for."""
        length = min(_KEPT, int(self._footage.lengths.max()))
        looks, pairs, truths = [], [], []
        for _ in range(max(len(self._footage.frames) // (_AT_ONCE * length), 1)):
            frames, truth = self.draw(length, _AT_ONCE)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                look, pair = network.see(frames)
            looks.append(look)
            pairs.append(pair)
            truths.append(truth)
            if not is_time():
                break
        truth = Truth(
            torch.cat([part.track for part in truths]),
            torch.cat([part.held for part in truths]),
            self._weight,
        )
        return Seen(torch.cat(looks), torch.cat(pairs), truth, self._rng)
