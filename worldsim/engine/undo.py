"""How to take one frame of one session back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from worldsim.engine.step import Step
from worldsim.model.cache import Page
from worldsim.sampling.memory import Memory
from worldsim.tokenizer.protocol import Past


@dataclass(frozen=True, slots=True)
class Undo:
    """What a step overwrites of a session's memory: of its cache one page, not all of it."""

    page: Page
    past: Past
    agent: Tensor
    moves: Tensor
    doubt: Tensor
    pose: Tensor
    step: Step
    """What the session had answered before."""

    @staticmethod
    def of(memory: Memory, page: Page, row: int, step: Step) -> Undo:
        """Of one row of ``memory`` before it is stepped; tensors are shared with it."""
        one, past = slice(row, row + 1), memory.past
        kept = Past(past.frame[one], past.reach[one])
        moved = memory.moves[one], memory.doubt[one], memory.poses[one]
        return Undo(page.row(row), kept, memory.agent[one], *moved, step)


def undo(memory: Memory, undone: Sequence[Undo]) -> None:
    """Take frames of ``memory``, one row, back, the newest first."""
    for one in undone:
        memory.cache.unwrite(one.page)
    last = undone[-1]
    memory.past, memory.agent, memory.moves = last.past, last.agent, last.moves
    memory.doubt, memory.poses = last.doubt, last.pose
    memory.indices = memory.indices - len(undone)


def put_back(memory: Memory, frames: int, before: Undo | None) -> bool:
    """Make one row of ``memory`` what it was before a step that failed; False where that cannot be done.

    Args:
        memory: one row, of which the step may have written nothing, the cache alone, or all.
        frames: that it had before the step.
        before: how to undo the step, if that was kept.
    """
    written, taken = int(memory.cache.index[memory.cache.rows]) != frames, int(memory.indices) != frames
    if written and before is None:
        return False
    if before is not None and taken:
        undo(memory, [before])
    elif before is not None and written:
        memory.cache.unwrite(before.page)
    return True
