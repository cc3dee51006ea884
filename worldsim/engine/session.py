"""One imagined world."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worldsim.controls import Control
from worldsim.engine.step import Step
from worldsim.errors import EngineError
from worldsim.sampling.rollout import Memory

if TYPE_CHECKING:
    from worldsim.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Moment:
    """A session at one frame: its memory (one row) and what it had answered."""

    memory: Memory
    step: Step


class Session:
    """A handle on a slot of the engine. Made by ``Engine.open``, ``fork`` and ``Engine.restore``."""

    def __init__(
        self,
        engine: Engine,
        slot: int,
        *,
        seed: int,
        start: int | None,
        step: Step,
        history: Iterable[Moment] = (),
    ) -> None:
        self.engine, self.slot, self.seed = engine, slot, seed
        self.start = start
        """Index into the world's starts; None where the session began from given frames."""
        self.last = step
        self.closed = False
        self._history: deque[Moment] = deque(history, maxlen=engine.history)

    @property
    def frame(self) -> np.ndarray:
        """The newest frame, uint8 [H, W, 3]."""
        return self.last.frame

    @property
    def pose(self) -> np.ndarray | None:
        """The newest camera-to-world, float64 [4, 4], or None."""
        return self.last.pose

    @property
    def index(self) -> int:
        """Frames since the session began, given ones included."""
        return self.last.index

    @property
    def rewindable(self) -> int:
        """How many frames ``rewind`` can go back."""
        return len(self._history)

    def step(self, control: Control | None = None) -> Step:
        """Dream one frame under ``control`` (no key by default)."""
        return self.engine.step({self: control or Control()})[self]

    def fork(self, count: int = 1) -> list[Session]:
        """``count`` sessions with the same past and seed; under the same controls they dream the same future.

        Raises:
            EngineError: too few free slots.
        """
        return self.engine.fork(self, count)

    def rewind(self, frames: int = 1) -> Step:
        """Go back ``frames`` frames. Dreaming on under the same controls gives the same frames again.

        Raises:
            EngineError: further back than the history reaches, or a closed session.
        """
        if not 1 <= frames <= len(self._history):
            rule = f"a rewind must be within the {len(self._history)} frames kept"
            raise EngineError(rule, frames, "open the engine with a longer history")
        self.engine.put(self, self._history[-frames])
        for _ in range(frames):
            self._history.pop()
        return self.last

    def snapshot(self) -> bytes:
        """All that this session's future depends on; ``Engine.restore`` continues it bit for bit."""
        return self.engine.snapshot(self)

    def close(self) -> None:
        """Free the slot; closing twice is fine."""
        self.engine.close(self)

    def advance(self, step: Step, before: Memory | None) -> None:
        """Take ``step`` as the newest answer, and keep the memory ``before`` it for ``rewind`` if given."""
        if before is not None:
            self._history.append(Moment(before, self.last))
        self.last = step

    @property
    def history(self) -> tuple[Moment, ...]:
        """Moments before the newest frames, oldest first."""
        return tuple(self._history)
