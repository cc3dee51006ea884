"""A saved moment of a walk."""

from __future__ import annotations

from dataclasses import dataclass

from worldsim.agents.human.branch import Trajectory


@dataclass(frozen=True)
class Save:
    """A moment to come back to."""

    blob: bytes
    start: int
    trajectory: Trajectory
    ended: bool

    @property
    def index(self) -> int:
        """Number of frames after its start."""
        return len(self.trajectory.controls)
