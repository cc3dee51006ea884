"""All that an imagined world's future depends on: ``WorldState``.

Shapes: B worlds, D width, P steps back, M control vector, J keys and yaw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.model.state import GeneratorState, Rows
from worldsim.networks import Networks
from worldsim.sampling.upload import upload
from worldsim.tokenizer.protocol import PreviousFrame
from worldsim.utils import buffer_pool

_PENDING = "pending."
_OWN = ("agent", "motion_history", "pose_uncertainty", "poses", "seeds", "indices", "temperature")


@dataclass(slots=True)
class WorldState:
    """All that the futures of B worlds depend on, apart from the weights."""

    generator: GeneratorState
    previous: PreviousFrame
    agent: Tensor
    """Agent feature of the last frame [B, D]; 0 where nothing reads it."""
    motion_history: Tensor
    """Last steps, newest last [B, P, 6 + J]: the normalised twist, then the keys and yaw that led to it."""
    pose_uncertainty: Tensor
    """Expected error of the pose in metres [B]; 0 where it was given."""
    poses: Tensor
    """Camera-to-world of the last frame, float64 [B, 4, 4]; identity where the source has no poses."""
    seeds: Tensor
    """int64 [B], of the bits of an unsigned number."""
    indices: Tensor
    """Frames so far, int64 [B]."""
    temperature: Tensor
    """Factor of all noise, float32 [B]; 1 as trained, 0 leaves nothing to chance."""
    pending: dict[str, Tensor] = field(default_factory=dict)
    """The unit that is being shown, where units have several frames; see ``sampling.clock``."""

    def pick(self, rows: np.ndarray | Rows) -> WorldState:
        """A copy of some worlds."""
        index = self._index(rows)
        return self._gather(index, self.generator.pick(index))

    def over(self, rows: Rows, keep: bool = False) -> WorldState:
        """Some worlds, to be stepped: the generator's state is written to, the rest is for ``take``.

        With ``keep`` the rest is a copy, which outlives that.
        """
        if keep or not isinstance(rows, slice):
            return self._gather(rows, self.generator.over(rows))
        return self._of(self.generator.over(rows), [part[rows] for part in self.parts().values()])

    def take(self, rows: Rows, other: WorldState) -> None:
        """Overwrite all of some worlds with what ``over`` gave."""
        self.generator.take(rows, other.generator)
        self._write(rows, other)

    def merge(self, rows: Rows, other: WorldState) -> None:
        """As ``take``, but into new tensors: those of this state may be shared."""
        self.generator.take(rows, other.generator)
        parts = {name: part.clone() for name, part in self.parts().items()}
        for name, part in other.parts().items():
            parts[name][rows] = part.to(parts[name].dtype)
        merged = self.with_parts(parts)
        self.previous, self.pending = merged.previous, merged.pending
        for name in _OWN:
            setattr(self, name, getattr(merged, name))

    def put(self, rows: np.ndarray | Rows, other: WorldState) -> None:
        """Overwrite some worlds with those of ``other``, in this state's number type."""
        index = self._index(rows)
        self.generator.put(index, other.generator)
        self._write(index, other)

    def replace(self, mask: Tensor, other: WorldState) -> None:
        """Overwrite the worlds in ``mask``, bool [B], with those of ``other``, which has as many."""
        for mine, theirs in zip(self.parts().values(), other.parts().values(), strict=True):
            chosen = mask.view(-1, *[1] * (mine.ndim - 1))
            mine.copy_(torch.where(chosen, theirs.to(mine.dtype), mine))
        self.generator.replace(mask, other.generator)

    def to(self, device: torch.device) -> WorldState:
        """The same on another device."""
        return self._of(self.generator.to(device), [part.to(device) for part in self.parts().values()])

    def bytes_per_world(self) -> int:
        """Bytes of one world."""
        return self.generator.nbytes + sum(part[:1].nbytes for part in self.parts().values())

    def parts(self) -> dict[str, Tensor]:
        """All but the generator's state by name, worlds first."""
        return {
            "frame": self.previous.frame,
            "depth": self.previous.depth,
            **{name: getattr(self, name) for name in _OWN},
            **{_PENDING + name: part for name, part in self.pending.items()},
        }

    def with_parts(self, parts: Mapping[str, Tensor]) -> WorldState:
        """The same generator's state with other ``parts()``."""
        return self._of(self.generator, [parts[name] for name in self.parts()])

    def _of(self, generator: GeneratorState, parts: Sequence[Tensor]) -> WorldState:
        frame, depth, *rest = parts
        own: dict[str, Any] = dict(zip(_OWN, rest, strict=False))
        pending = dict(zip(self.pending, rest[len(_OWN) :], strict=True))
        return WorldState(generator, PreviousFrame(frame, depth), pending=pending, **own)

    def _write(self, rows: Rows, other: WorldState) -> None:
        for mine, theirs in zip(self.parts().values(), other.parts().values(), strict=True):
            mine[rows] = theirs.to(mine.dtype)

    def _gather(self, rows: Rows, generator: GeneratorState) -> WorldState:
        return self._of(generator, [_copied(part, rows) for part in self.parts().values()])

    def _index(self, rows: np.ndarray | Rows) -> Rows:
        return upload(rows.astype(np.int64), self.agent.device) if isinstance(rows, np.ndarray) else rows


def empty_state(networks: Networks, batch: int, context: int | None = None) -> WorldState:
    """State of ``batch`` worlds in which nothing has been seen, with room for ``context`` units of past."""
    device = networks.device
    return WorldState(
        generator=networks.generator.initial_state(batch, context),
        previous=networks.tokenizer.blank(batch, device),
        agent=torch.zeros(batch, networks.generator.width, device=device),
        motion_history=torch.zeros(
            batch, networks.config.heads.twists, 6 + networks.motion_size, device=device
        ),
        pose_uncertainty=torch.zeros(batch, device=device),
        poses=torch.eye(4, dtype=torch.float64, device=device).repeat(batch, 1, 1),
        seeds=torch.zeros(batch, dtype=torch.int64, device=device),
        indices=torch.zeros(batch, dtype=torch.int64, device=device),
        temperature=torch.ones(batch, device=device),
        pending=empty_pending(networks, batch) if networks.unit.frames > 1 else {},
    )


def empty_pending(networks: Networks, batch: int) -> dict[str, Tensor]:
    """A unit of F frames none of which is shown, for ``batch`` worlds; see ``sampling.clock``."""
    new = partial(torch.zeros, device=networks.device)
    frames, latent, tokenizer = networks.unit.frames, networks.tokenizer.latent_spec, networks.tokenizer
    previous = tokenizer.blank(batch, networks.device)
    size, many = previous.depth.shape[1:], (batch, frames)
    pose = torch.eye(4, dtype=torch.float64, device=networks.device)
    return {
        "shown": new(batch, dtype=torch.int64),
        "units": new(batch, dtype=torch.int64),
        "observed": new(batch, dtype=torch.bool),
        "base_frame": previous.frame,
        "base_depth": previous.depth,
        "base_pose": pose.repeat(batch, 1, 1),
        "latent": new(*many, *latent.shape),
        "tokens": new(*many, latent.tokens, tokenizer.prior_channels),
        "vector": new(*many, networks.control_size),
        "twist": new(*many, 6),
        "pose_mask": new(*many, dtype=torch.bool),
        "poses": pose.repeat(*many, 1, 1),
        "pose_uncertainty": new(*many),
        "frame": new(*many, 3, *size),
        "depth": new(*many, *size),
        "reward": new(*many),
        "continue_prob": new(*many),
        "terminated": new(*many, dtype=torch.bool),
        "uncertainty": new(*many),
        "known": new(*many, dtype=torch.bool),
    }


def _copied(part: Tensor, rows: Rows) -> Tensor:
    return buffer_pool.clone(part[rows]) if isinstance(rows, slice) else part[rows]


def rows_of(numbers: np.ndarray, device: torch.device) -> Rows:
    """Numbers in rising order as what reads fastest: a slice where none is left out."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first == len(numbers) - 1:
        return slice(first, last + 1)
    return upload(numbers.astype(np.int64), device)
