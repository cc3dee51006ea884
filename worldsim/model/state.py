"""A generator's memory of the past, as a protocol, and its plainest form: named tensors.

Shapes: B batch (rows of the state).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from worldsim.errors import EngineError
from worldsim.utils import buffer_pool

__all__ = ["GeneratorState", "RingState", "Rows", "TensorEntry", "TensorState", "UndoEntry", "check_tensors"]

Rows = Tensor | slice
"""Rows of a batch, by number or as a slice, which reads without a copy."""


class UndoEntry(Protocol):
    """A copy of what the next commit overwrites: enough to undo it."""

    def row(self, number: int) -> Self:
        """One row, as a view."""


class GeneratorState(Protocol):
    """A generator's memory of the units so far, one row per world of the batch."""

    @property
    def context(self) -> int:
        """Units of past that it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""

    @property
    def units(self) -> Tensor:
        """Units committed so far, int64 [B]."""

    def over(self, rows: Rows) -> Self:
        """Some rows, to be committed to; ``take`` makes the result those rows' own."""

    def take(self, rows: Rows, other: Self) -> None:
        """Write back some rows that ``over(rows)`` gave. Nothing to do where both share memory."""

    def pick(self, rows: Rows) -> Self:
        """A copy of some rows."""

    def put(self, rows: Rows, other: Self) -> None:
        """Overwrite some rows with those of ``other``; a single row of ``other`` is repeated."""

    def replace(self, mask: Tensor, other: Self) -> None:
        """Overwrite the rows in ``mask``, bool [B], with those of ``other``, which has as many."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""

    def undo_entry(self) -> UndoEntry:
        """A copy of what the next commit will overwrite."""

    def undo(self, entry: UndoEntry) -> None:
        """Make the rows what they were when ``undo_entry()`` gave ``entry``, after one commit or none."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, the batch axis first in each."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite all of it with what ``tensors()`` of a state of the same sizes gave.

        Raises:
            EngineError: another name, type or shape, or a value that no commit could have left.
        """


def rows_within(rows: Rows, of: Rows, count: int, device: torch.device) -> Rows:
    """Rows of some rows ``of`` a batch of ``count``, as rows of the batch."""
    if isinstance(of, slice) and of == slice(None):
        return rows
    return torch.arange(count, device=device)[of][rows]


def check_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check names, types, shapes and finiteness of a state's tensors; floats may be of any precision.

    Raises:
        EngineError: ``given`` does not match ``wanted``.
    """
    if set(given) != set(wanted):
        rule = f"a generator's state must hold {', '.join(sorted(wanted))}"
        raise EngineError(rule, sorted(given), "take the snapshot again")
    for name, tensor in wanted.items():
        is_float = given[name].is_floating_point() and tensor.is_floating_point()
        if given[name].shape != tensor.shape or not (is_float or given[name].dtype == tensor.dtype):
            rule = f"a generator's {name} must be {tensor.dtype} {list(tensor.shape)}"
            seen = f"{given[name].dtype} {list(given[name].shape)}"
            raise EngineError(rule, seen, "restore it in an engine of the same world, type and context")
        if given[name].is_floating_point() and not given[name].isfinite().all():
            raise EngineError(f"a generator's {name} must be finite", "inf or nan", "take the snapshot again")


_UNITS = "units"
"""Name of the tensor in which a ``TensorState`` counts commits."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A copy of a ``TensorState``."""

    tensors: dict[str, Tensor]

    def row(self, number: int) -> TensorEntry:
        one = slice(number, number + 1)
        return TensorEntry({name: part[one] for name, part in self.tensors.items()})


@dataclass(slots=True)
class TensorState:
    """Named tensors [B, ...] that every commit may overwrite whole: the memory of a recurrent core.

    A commit writes by one call of ``set``, which counts units, too. Values are finite.
    """

    parts: dict[str, Tensor]
    """The tensors; a count of units is added to them."""
    context: int = 1
    """Units of past that a session may be given to begin with."""
    rows: Rows = field(default_factory=lambda: slice(None))
    """Rows of ``parts`` that this state is about."""

    def __post_init__(self) -> None:
        if _UNITS not in self.parts:
            first = next(iter(self.parts.values()))
            self.parts[_UNITS] = torch.zeros(len(first), dtype=torch.int64, device=first.device)

    @property
    def units(self) -> Tensor:
        return self[_UNITS]

    @property
    def nbytes(self) -> int:
        return sum(part[:1].nbytes for part in self.parts.values())

    def __getitem__(self, name: str) -> Tensor:
        """The rows of one tensor."""
        return self.parts[name][self.rows]

    def set(self, **tensors: Tensor) -> None:
        """Overwrite the rows of some tensors, in place and in their type, and count one unit more."""
        self._write({**tensors, _UNITS: self.units + 1})

    def over(self, rows: Rows) -> Self:
        """Some rows, with the same memory underneath."""
        count, device = len(self.parts[_UNITS]), self.parts[_UNITS].device
        return replace(self, rows=rows_within(rows, self.rows, count, device))

    def take(self, rows: Rows, other: TensorState) -> None:
        """Nothing: ``over`` shares memory."""

    def pick(self, rows: Rows) -> Self:
        parts = {name: part[rows].clone() for name, part in self.tensors().items()}
        return replace(self, parts=parts, rows=slice(None))

    def put(self, rows: Rows, other: TensorState) -> None:
        for name, part in self.parts.items():
            part[rows] = other.parts[name].to(part.dtype)

    def replace(self, mask: Tensor, other: TensorState) -> None:
        for name, part in self.parts.items():
            chosen = mask.view(-1, *[1] * (part.ndim - 1))
            part.copy_(torch.where(chosen, other.parts[name].to(part.dtype), part))

    def to(self, device: torch.device) -> Self:
        parts = {name: part.to(device) for name, part in self.parts.items()}
        return replace(self, parts=parts, rows=slice(None))

    def undo_entry(self) -> TensorEntry:
        return TensorEntry({name: buffer_pool.clone(part[self.rows]) for name, part in self.parts.items()})

    def undo(self, entry: TensorEntry) -> None:
        self._write(entry.tensors)

    def tensors(self) -> dict[str, Tensor]:
        return {name: part[self.rows] for name, part in self.parts.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        check_tensors(tensors, self.tensors())
        if (tensors[_UNITS] < 0).any():
            raise EngineError("a generator's units must be a count", tensors[_UNITS].tolist())
        self._write(tensors)

    def _write(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            self.parts[name][self.rows] = value.to(self.parts[name].dtype)


@dataclass(slots=True)
class RingState(TensorState):
    """A ``TensorState`` of which some tensors [B, X, places, ...] are rings: a commit writes one place."""

    rings: tuple[str, ...] = ()
    """Names of the rings, all of as many places."""

    @property
    def places(self) -> int:
        return self.parts[self.rings[0]].shape[2]

    def set_next(self, **tensors: Tensor) -> None:
        """Overwrite the place of the next unit in some rings by tensors [B, X, ...]; ``set`` comes after."""
        self._write_places(self.units, tensors)

    def undo_entry(self) -> TensorEntry:
        numbers, place = self._numbers(), self.units % self.places
        rings = {name: self.parts[name][numbers, :, place] for name in self.rings}
        rest = {name: part for name, part in self.parts.items() if name not in rings}
        return TensorEntry(rings | {name: buffer_pool.clone(part[self.rows]) for name, part in rest.items()})

    def undo(self, entry: TensorEntry) -> None:
        rings = {name: entry.tensors[name] for name in self.rings}
        self._write_places(entry.tensors[_UNITS], rings)
        self._write({name: part for name, part in entry.tensors.items() if name not in rings})

    def _write_places(self, units: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the place of unit number ``units`` [B] in some rings."""
        numbers, place = self._numbers(), units % self.places
        for name, value in tensors.items():
            self.parts[name][numbers, :, place] = value.to(self.parts[name].dtype)

    def _numbers(self) -> Tensor:
        """The numbers of the rows, int64 [B]."""
        every = self.parts[_UNITS]
        return torch.arange(len(every), device=every.device)[self.rows]
