"""Step of a whole batch of worlds, in tensors on the networks' device."""

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
from worldsim.utils import buffer_pool

if TYPE_CHECKING:
    from worldsim.model.state import Rows
    from worldsim.sampling.imagine import Imagined
    from worldsim.sampling.world_state import WorldState

_SHOWN = (
    "frame", "pose_given", "reward", "terminated", "uncertainty", "known", "index", "seed", "pose",
    "features", "termination_prob", "surprise",
)  # fmt: skip
"""Fields that a row has from its first frame on."""
_BATCH_ONLY = ("features", "termination_prob")
"""Fields that a single ``Step`` does not have."""


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
    uncertainty: Tensor
    """float64 [N]; NaN in a world that cannot tell it."""
    known: Tensor
    """bool [N]"""
    index: Tensor
    """Number of the frame, 0 is the first given one, int64 [N]."""
    seed: Tensor
    """int64 [N], of the bits of an unsigned number."""
    pose: Tensor | None = None
    """Camera-to-world, float64 [N, 4, 4], metres; None where the source has no poses."""
    features: Tensor | None = None
    """The frames' codes, flattened, then the agent's features, float32 [N, tokens C + A]; None where the
    engine is elsewhere."""
    termination_prob: Tensor | None = None
    """Probability that the episode ended here, as learnt, float32 [N]; None as ``features``."""
    surprise: Tensor | None = None
    """Minus the binary logarithm of the probability of each frame's bits, float64 [N]; None where that is
    not known."""
    denoising_steps: int = 0
    """Denoising passes taken, K; 0 where worlds have begun since."""
    latent: Tensor | None = None
    """The frames' codes, float32 [N, tokens, C]; None where worlds have begun since."""
    single: Sequence[Any] | None = None
    """The rows as single steps, where they were made one by one."""

    @staticmethod
    def of(
        imagined: Imagined,
        state: WorldState,
        given: Tensor | None,
        denoising_steps: int,
        decode: bool,
        posed: bool,
    ) -> BatchStep:
        """The answer to a step.

        Args:
            imagined: the new frames.
            state: of these worlds, after the step.
            given: whether each one's pose was explicit, bool [N]; None: nowhere.
            denoising_steps: denoising steps taken, K.
            decode: False: frames were not wanted, and are empty.
            posed: the source has poses.
        """
        nothing = imagined.frame.new_empty(len(state.indices), 0, 0, 3, dtype=torch.uint8)
        return BatchStep(
            frame=to_frame(imagined.frame) if decode else nothing,
            pose_given=torch.zeros_like(state.indices, dtype=torch.bool) if given is None else given,
            reward=imagined.reward.float(),
            terminated=imagined.terminated,
            uncertainty=_told(imagined.uncertainty.double(), imagined, posed),
            known=imagined.known,
            index=state.indices - 1,
            seed=state.seeds,
            pose=state.poses if posed else None,
            features=_features(imagined.latent, state),
            termination_prob=1 - imagined.continue_prob.float(),
            surprise=None if imagined.surprise is None else imagined.surprise.double(),
            denoising_steps=denoising_steps,
            latent=imagined.latent.float(),
        )

    @staticmethod
    def first(
        frame: np.ndarray, state: WorldState, given: bool, newest: Imagined, known: Tensor, posed: bool
    ) -> BatchStep:
        """The answer of one world that has just begun.

        Args:
            frame: the newest given one, uint8 [H, W, 3].
            state: the world's.
            given: it came with its pose.
            newest: the frame's observation; its uncertainty counts where the pose is ``known``, bool [1].
            known: the pose is one that the world knows.
            posed: the source has poses.
        """
        one, values = torch.ones_like(state.indices), newest.uncertainty.double().masked_fill(~known, 1.0)
        return BatchStep(
            frame=torch.from_numpy(frame[None].copy()).to(state.indices.device),
            pose_given=one > 0 if given else one < 0,
            reward=torch.zeros_like(state.pose_uncertainty),
            terminated=one < 0,
            uncertainty=_told(values, newest, posed),
            known=known,
            index=state.indices - 1,
            seed=state.seeds,
            pose=state.poses if posed else None,
            features=_features(newest.latent, state),
            termination_prob=torch.zeros_like(state.pose_uncertainty),
            surprise=None if newest.surprise is None else newest.surprise.double(),
        )

    @staticmethod
    def cat(parts: Sequence[BatchStep]) -> BatchStep:
        """The rows of all parts, in their order."""
        values: dict[str, Any] = {
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(BatchStep)
            if isinstance(getattr(parts[0], field.name), Tensor)
        }
        return replace(parts[0], single=None, **values)

    @staticmethod
    def empty(
        count: int, size: tuple[int, int], poses: bool, features: int, device: torch.device, chances: bool
    ) -> BatchStep:
        """Room for ``count`` rows with so many features; what they hold means nothing."""
        new = partial(torch.empty, device=device)
        return BatchStep(
            frame=new(count, *size, 3, dtype=torch.uint8),
            pose=new(count, 4, 4, dtype=torch.float64) if poses else None,
            pose_given=new(count, dtype=torch.bool),
            reward=new(count),
            terminated=new(count, dtype=torch.bool),
            uncertainty=new(count, dtype=torch.float64),
            known=new(count, dtype=torch.bool),
            index=new(count, dtype=torch.int64),
            seed=new(count, dtype=torch.int64),
            features=new(count, features),
            termination_prob=new(count),
            surprise=new(count, dtype=torch.float64) if chances else None,
        )

    def write(self, rows: Rows, other: BatchStep) -> None:
        """Overwrite what some rows show with those of ``other``."""
        for mine, theirs in zip(self._shown().values(), other._shown().values(), strict=True):
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
        return replace(
            self._with(self, lambda mine, _: mine[rows]), denoising_steps=self.denoising_steps, latent=latent
        )

    def copy(self) -> BatchStep:
        """The same in tensors of its own."""
        latent = None if self.latent is None else self.latent.clone()
        return replace(
            self._with(self, lambda mine, _: mine.clone()),
            denoising_steps=self.denoising_steps,
            latent=latent,
        )

    def rows(self) -> list[Any]:
        """The same as single steps on the host, which waits for the device."""
        if self.single is not None:
            return list(self.single)
        names = [field.name for field in fields(self) if field.name not in _BATCH_ONLY]
        values = {name: getattr(self, name) for name in names}
        # Apart from what comes and goes: histories keep it, and it would break the heap up.
        tensors = {name: part for name, part in values.items() if isinstance(part, Tensor)}
        host = {name: buffer_pool.clone(part.cpu()).numpy() for name, part in tensors.items()}
        return [self._row(host, i) for i in range(len(self.reward))]

    def _row(self, host: dict[str, np.ndarray], i: int) -> Step:
        return Step(
            frame=host["frame"][i],
            pose=host["pose"][i].copy() if "pose" in host else None,
            pose_given=bool(host["pose_given"][i]),
            reward=float(host["reward"][i]),
            terminated=bool(host["terminated"][i]),
            uncertainty=float(host["uncertainty"][i]) if "pose" in host or "surprise" in host else None,
            index=int(host["index"][i]),
            denoising_steps=self.denoising_steps,
            latent=host["latent"][i] if "latent" in host else None,
            known=bool(host["known"][i]),
            surprise=float(host["surprise"][i]) if "surprise" in host else None,
        )

    def _shown(self) -> dict[str, Tensor]:
        parts = {name: getattr(self, name) for name in _SHOWN}
        return {name: part for name, part in parts.items() if part is not None}

    def _with(self, other: BatchStep, mix: Callable[[Tensor, Tensor], Tensor]) -> BatchStep:
        mine, theirs = self._shown(), other._shown()
        values: dict[str, Any] = {name: mix(part, theirs[name]) for name, part in mine.items()}
        return replace(self, denoising_steps=0, latent=None, single=None, **values)


def _told(uncertainty: Tensor, imagined: Imagined, posed: bool) -> Tensor:
    """``uncertainty`` [N] where it is one: with poses, or where chances are known; else NaN."""
    known = posed or imagined.surprise is not None
    return uncertainty if known else torch.full_like(uncertainty, torch.nan)


def _features(latent: Tensor, state: WorldState) -> Tensor:
    return torch.cat([latent.flatten(1).float(), state.agent], 1)


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.ndim - 1))
