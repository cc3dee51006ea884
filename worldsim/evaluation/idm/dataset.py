"""What the IDM is trained on: clips, later what it saw in clips; and what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.evaluation.idm.augment import augment
from worldsim.evaluation.idm.collect import LabelledFrames
from worldsim.evaluation.idm.loss import IDMTargets
from worldsim.evaluation.idm.network import IDMConfig, IDMNetwork
from worldsim.pixels import to_model

__all__ = ["CachedFeatures", "ClipSampler"]

_KEPT = 40
"""Frames of the clips of which is kept what is seen."""
_AT_ONCE = 4
"""Of these clips."""


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """What the network saw in C clips of T frames, and what is true of them."""

    look: Tensor
    """bfloat16 [C, T, S]."""
    pair: Tensor
    """bfloat16 [C, T - 1, S]."""
    targets: IDMTargets
    """Of these clips."""
    rng: np.random.Generator
    """Of the draws."""

    @property
    def length(self) -> int:
        """T."""
        return self.look.shape[1]

    def draw(self, clips: int) -> tuple[Tensor, Tensor, IDMTargets]:
        """A batch of so many of the clips, in float32."""
        some = torch.from_numpy(self.rng.integers(len(self.look), size=clips))
        targets = IDMTargets(self.targets.track[some], self.targets.held[some], self.targets.weight)
        return self.look[some].float(), self.pair[some].float(), targets


class ClipSampler:
    """Clips of real frames, augmented."""

    def __init__(self, labelled: LabelledFrames, config: IDMConfig, rng: np.random.Generator) -> None:
        self._footage, self._rng, self._keys = labelled, rng, len(config.keys)
        self._starts: dict[int, np.ndarray] = {}
        self._origin = np.array([*config.centre, 0.0])
        down = labelled.controls[:, : self._keys].mean(0).clip(0.02, 0.98)
        self._weight = torch.from_numpy((1 - down) / down).float()

    def draw(self, length: int, clips: int) -> tuple[Tensor, IDMTargets]:
        """So many clips [B, T, 3, 60, 80] of this length."""
        if length not in self._starts:
            self._starts[length] = self._footage.starts(length)
        starts = self._rng.choice(self._starts[length], clips)
        frames, controls, tracks = self._footage.clips(starts, length)
        held = torch.from_numpy(controls[:, 1:, : self._keys])
        targets = IDMTargets(torch.from_numpy(tracks - self._origin).float(), held, self._weight)
        return augment(to_model(frames), self._rng), targets

    def cache_features(self, network: IDMNetwork, is_time: Callable[[], bool]) -> CachedFeatures:
        """What the network sees in as many clips as make up the labelled, or as there is time for."""
        length = min(_KEPT, int(self._footage.lengths.max()))
        looks, pairs, targets = [], [], []
        for _ in range(max(len(self._footage.frames) // (_AT_ONCE * length), 1)):
            frames, targets = self.draw(length, _AT_ONCE)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                look, pair = network.see(frames)
            looks.append(look)
            pairs.append(pair)
            targets.append(targets)
            if not is_time():
                break
        targets = IDMTargets(
            torch.cat([part.track for part in targets]),
            torch.cat([part.held for part in targets]),
            self._weight,
        )
        return CachedFeatures(torch.cat(looks), torch.cat(pairs), targets, self._rng)
