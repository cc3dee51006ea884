"""What a whole batch of worlds answers, in tensors where the networks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from worldsim.engine.step import Step
from worldsim.pixels import to_frame

if TYPE_CHECKING:
    from worldsim.model.state import Rows
    from worldsim.networks import Networks
    from worldsim.sampling.imagine import Imagined
    from worldsim.sampling.world_state import WorldState

_SHOWN = ("frame", "pose_given", "reward", "terminated", "drift", "known", "index", "seed", "pose")
"""What a row shows, also one that has only begun; the first fields of a ``BatchStep``."""


@dataclass(frozen=True, slots=True)
class BatchStep:
    """``Step`` of N worlds, row by row."""

    frame: Tensor
    """uint8 [N, H, W, 3]"""
    pose_given: Tensor
    """bool [N]"""
    reward: Tensor
    """float32 [N]"""
    terminated: Tensor
    """bool [N]"""
    drift: Tensor
    """float64 [N]; NaN in a world without poses."""
    known: Tensor
    """bool [N]"""
    index: Tensor
    """Frames since the world began, given ones included, int64 [N]."""
    seed: Tensor
    """int64 [N], of the bits of an unsigned number."""
    pose: Tensor | None = None
    """Camera-to-world, float64 [N, 4, 4], metres; None where the source has no poses."""
    steps: int = 0
    """Denoising passes taken, K; 0 where worlds have begun since."""
    latent: Tensor | None = None
    """The frames' codes, float32 [N, tokens, C]; None where worlds have begun since."""
    single: Sequence[Any] | None = None
    """The rows as single steps, where they were made one by one."""

    @staticmethod
    def room(networks: Networks, count: int, size: tuple[int, int], steps: int) -> BatchStep:
        """Room for what ``count`` worlds answer to a step in ``steps`` passes, with latents."""
        device = networks.device
        latent = torch.empty(count, *networks.tokenizer.latent_spec.shape, device=device)
        empty = BatchStep.empty(count, size, networks.has_poses, device)
        return replace(empty, latent=latent, steps=steps)

    @staticmethod
    def empty(count: int, size: tuple[int, int], poses: bool, device: torch.device) -> BatchStep:
        """Room for ``count`` rows; what they hold means nothing."""
        new = partial(torch.empty, device=device)
        return BatchStep(
            frame=new(count, *size, 3, dtype=torch.uint8),
            pose=new(count, 4, 4, dtype=torch.float64) if poses else None,
            pose_given=new(count, dtype=torch.bool),
            reward=new(count),
            terminated=new(count, dtype=torch.bool),
            drift=new(count, dtype=torch.float64),
            known=new(count, dtype=torch.bool),
            index=new(count, dtype=torch.int64),
            seed=new(count, dtype=torch.int64),
        )

    def fill(self, rows: Rows, imagined: Imagined, state: WorldState, given: Tensor | None) -> None:
        """Write what a step of some rows gave; the drift is a share of the pixel range, which is 2 wide."""
        self.frame[rows] = to_frame(imagined.frame)
        if self.pose is not None:
            self.pose[rows] = state.poses
        self.pose_given[rows] = False if given is None else given
        self.reward[rows] = imagined.reward.float()
        self.terminated[rows] = imagined.terminated
        self.drift[rows] = torch.nan if self.pose is None else imagined.drift.double()
        self.known[rows] = imagined.known
        self.index[rows] = state.indices - 1
        self.seed[rows] = state.seeds
        if self.latent is not None:
            self.latent[rows] = imagined.latent.float()

    def write(self, rows: Rows, other: BatchStep) -> None:
        """Overwrite what some rows show with those of ``other``."""
        for mine, theirs in zip(self._shown(), other._shown(), strict=True):
            mine[rows] = theirs

    def put(self, rows: Rows, other: BatchStep) -> BatchStep:
        """A copy in which some rows are those of ``other``."""
        copy = self._with(self, lambda mine, _: mine.clone())
        copy.write(rows, other)
        return copy

    def where(self, mask: Tensor, other: BatchStep) -> BatchStep:
        """A copy in which the rows in ``mask``, bool [N], are those of ``other``, which has as many rows."""
        return self._with(other, lambda mine, theirs: torch.where(_wide(mask, mine), theirs, mine))

    def pick(self, rows: Rows) -> BatchStep:
        """Some rows."""
        latent = None if self.latent is None else self.latent[rows]
        return replace(self._with(self, lambda mine, _: mine[rows]), steps=self.steps, latent=latent)

    def copy(self) -> BatchStep:
        """The same in tensors of its own."""
        latent = None if self.latent is None else self.latent.clone()
        return replace(self._with(self, lambda mine, _: mine.clone()), steps=self.steps, latent=latent)

    def rows(self) -> list[Any]:
        """The same as single steps on the host, which waits for the device."""
        if self.single is not None:
            return list(self.single)
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        host = {name: part.cpu().numpy() for name, part in told.items() if isinstance(part, Tensor)}
        return [self._row(host, i) for i in range(len(self.reward))]

    def _row(self, host: dict[str, np.ndarray], i: int) -> Step:
        return Step(
            frame=host["frame"][i].copy(),
            pose=host["pose"][i].copy() if "pose" in host else None,
            pose_given=bool(host["pose_given"][i]),
            reward=float(host["reward"][i]),
            terminated=bool(host["terminated"][i]),
            drift=float(host["drift"][i]) if "pose" in host else None,
            index=int(host["index"][i]),
            steps=self.steps,
            latent=host["latent"][i].copy() if "latent" in host else None,
            known=bool(host["known"][i]),
        )

    def _shown(self) -> list[Tensor]:
        parts = [getattr(self, name) for name in _SHOWN]
        return [part for part in parts if part is not None]

    def _with(self, other: BatchStep, mix: Callable[[Tensor, Tensor], Tensor]) -> BatchStep:
        parts = [mix(mine, theirs) for mine, theirs in zip(self._shown(), other._shown(), strict=True)]
        told: dict[str, Any] = dict(zip(_SHOWN, parts, strict=False))  # no pose where there is none
        return replace(self, steps=0, latent=None, single=None, **told)


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.ndim - 1))
