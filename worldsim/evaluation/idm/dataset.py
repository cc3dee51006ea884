"""Training data of the inverse dynamics model: augmented clips, and cached codes of clips."""

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
from worldsim.utils.mixed_precision import mixed_precision

__all__ = ["CachedFeatures", "ClipSampler"]

_CACHED_LENGTH = 40
"""Frames of a clip whose codes are cached."""
_BATCH = 4
"""Clips that are encoded at once."""


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """Codes of C clips of T frames, with their targets."""

    frame: Tensor
    """bfloat16 [C, T, S]."""
    pair: Tensor
    """bfloat16 [C, T - 1, S]."""
    targets: IDMTargets
    """Targets of these clips."""
    rng: np.random.Generator
    """Generator of the draws."""

    @property
    def length(self) -> int:
        """T."""
        return self.frame.shape[1]

    def draw(self, clips: int) -> tuple[Tensor, Tensor, IDMTargets]:
        """Draw a batch of clips, in float32."""
        some = torch.from_numpy(self.rng.integers(len(self.frame), size=clips))
        targets = IDMTargets(self.targets.track[some], self.targets.held[some], self.targets.weight)
        return self.frame[some].float(), self.pair[some].float(), targets


class ClipSampler:
    """Sampler of augmented clips of real frames."""

    def __init__(self, labelled: LabelledFrames, config: IDMConfig, rng: np.random.Generator) -> None:
        self._labelled, self._rng, self._keys = labelled, rng, len(config.keys)
        self._starts: dict[int, np.ndarray] = {}
        self._origin = np.array([*config.map_centre, 0.0])
        down = labelled.controls[:, : self._keys].mean(0).clip(0.02, 0.98)
        self._weight = torch.from_numpy((1 - down) / down).float()

    def draw(self, length: int, clips: int) -> tuple[Tensor, IDMTargets]:
        """Draw clips [B, T, 3, 60, 80] of this length."""
        if length not in self._starts:
            self._starts[length] = self._labelled.starts(length)
        starts = self._rng.choice(self._starts[length], clips)
        frames, controls, tracks = self._labelled.clips(starts, length)
        held = torch.from_numpy(controls[:, 1:, : self._keys])
        targets = IDMTargets(torch.from_numpy(tracks - self._origin).float(), held, self._weight)
        return augment(to_model(frames), self._rng), targets

    def cache_features(self, network: IDMNetwork, has_time: Callable[[], bool]) -> CachedFeatures:
        """Encode as many clips as there are frames for, or while ``has_time``."""
        length = min(_CACHED_LENGTH, int(self._labelled.lengths.max()))
        codes, pairs, truths = [], [], []
        for _ in range(max(len(self._labelled.frames) // (_BATCH * length), 1)):
            frames, truth = self.draw(length, _BATCH)
            with torch.no_grad(), mixed_precision("cpu"):
                code, pair = network.encode_clip(frames)
            codes.append(code)
            pairs.append(pair)
            truths.append(truth)
            if not has_time():
                break
        targets = IDMTargets(
            torch.cat([part.track for part in truths]),
            torch.cat([part.held for part in truths]),
            self._weight,
        )
        return CachedFeatures(torch.cat(codes), torch.cat(pairs), targets, self._rng)
