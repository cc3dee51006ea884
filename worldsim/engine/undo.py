"""Undo records: they take one frame of one session back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from worldsim.engine.step import Step
from worldsim.model.state import UndoEntry
from worldsim.sampling.world_state import WorldState


@dataclass(frozen=True, slots=True)
class Undo:
    """Copy of the data that a step overwrites: one entry of the generator's state, and the other tensors."""

    entry: UndoEntry
    parts: dict[str, Tensor]
    """The rest of the state except the seed, which a fork may change."""
    step: Step
    """The session's step before."""

    @staticmethod
    def of(state: WorldState, entry: UndoEntry, row: int, step: Step) -> Undo:
        """The record of one row of ``state``, made before it is stepped; it shares tensors with the state."""
        one = slice(row, row + 1)
        parts = {name: part[one] for name, part in state.parts().items() if name != "seeds"}
        return Undo(entry.row(row), parts, step)


def undo(state: WorldState, undone: Sequence[Undo]) -> WorldState:
    """``state``, one row, without its newest frames, of which the newest comes first."""
    for one in undone:
        state.generator.undo(one.entry)
    return state.with_parts(state.parts() | undone[-1].parts)


def roll_back(state: WorldState, frames: int, before: Undo | None) -> WorldState | None:
    """One row of ``state`` as it was before a step that failed; None where that cannot be done.

    Args:
        state: one row, of which the step may have written nothing, the generator's alone, or all.
        frames: that it had before the step.
        before: how to undo the step, if that was kept.
    """
    if before is not None:
        return undo(state, [before])
    units = state.pending["units"] if state.pending else state.indices
    whole = int(state.indices) == frames and int(state.generator.units) == int(units)
    return state if whole else None
