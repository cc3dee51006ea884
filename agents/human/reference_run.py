"""Reference run: the source beside the dream, from the same start, under the same controls, in lock-step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from worldsim.agents.human.branch import PlanarPose, planar_pose
from worldsim.controls import Control
from worldsim.errors import SourceError

if TYPE_CHECKING:
    from worldsim.context import Context
    from worldsim.data.spec import SourceSpec
    from worldsim.envs.sources import Observation, Source

REMEMBERED = 256  # frames that can be shown again while rewinding without playing the episode anew


class ReferenceRun:
    """A source that is brought to a start and then follows the session's controls.

    When the session does what the source cannot (rewind, restore), ``stale`` is set and the episode is
    replayed from its seed, a slice of time at each ``catch_up``, before both continue.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.perf_counter) -> None:
        self._source = source
        self._clock = clock
        self._pending: deque[Control] = deque()
        self._seen: deque[Observation] = deque(maxlen=REMEMBERED)
        self._skip = 0  # pending controls that only lead to the start
        self.poses: list[PlanarPose | None] = []
        self.over = False
        self.stale = True

    @property
    def behind(self) -> int:
        """Number of controls that have yet to be played."""
        return len(self._pending)

    @property
    def frame(self) -> np.ndarray | None:
        """The source's picture now, uint8 [H, W, 3]; None while it is on its way to the start."""
        return self._seen[-1].frame if self._seen else None

    def replay(self, start: Context, controls: Sequence[Control]) -> None:
        """Begin anew: the start's seed, its prefix, then ``controls``.

        Raises SourceError if the start does not say how to bring a source there.
        """
        if start.seed is None or start.action_prefix is None:
            raise SourceError(
                "to compare, a start has to name its seed and its keys", None, "choose another start (N)"
            )
        self._seen.clear()
        self.poses = []
        self.over = False
        space = self._source.spec.control_space
        self._pending = deque([*(space.from_vector(row) for row in start.action_prefix), *controls])
        self._skip = len(start.action_prefix)
        first = self._source.reset(start.seed)
        if not self._skip:
            self._note(first)
        self.stale = False

    def catch_up(self, seconds: float = 0.02) -> None:
        """Play what is pending, for about so long."""
        until = self._clock() + seconds
        while self._pending and self._clock() < until:
            self.advance(self._pending.popleft())

    def advance(self, control: Control) -> None:
        """One frame. After the source's episode has ended its last frame stays."""
        if self.over:
            self._note(self._seen[-1])
            return
        seen = self._source.step(control)
        self.over = bool(seen.terminated or seen.truncated)
        self._skip -= 1
        if self._skip <= 0 or self.over:
            self._note(seen)

    def rewind(self, frames: int) -> None:
        """Show the frame that many frames ago, if it is remembered; the source itself is now stale."""
        for _ in range(min(frames, len(self._seen) - 1)):
            self._seen.pop()
        del self.poses[max(len(self.poses) - frames, 1) :]
        self.stale = True

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def _note(self, seen: Observation) -> None:
        self._seen.append(seen)
        self.poses.append(planar_pose(seen.pose))


def open_reference(spec: SourceSpec) -> ReferenceRun:
    """The source that a world was learnt from, at the world's frame size.

    Raises DependencyError if its engine is not installed, SourceError if it does not start.
    """
    from worldsim.envs.sources import make_source  # only where a source is wanted: engines are optional

    return ReferenceRun(make_source(spec.name, size=spec.size))
