"""One branch: a session and its trajectory since the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from worldsim import camera
from worldsim.agents.agent import Agent
from worldsim.controls import Control

if TYPE_CHECKING:
    from worldsim.engine.session import Session
    from worldsim.engine.step import Step

PlanarPose = tuple[float, float, float]
"""x and y in metres, yaw in radians."""


@dataclass
class Trajectory:
    """Trajectory of a branch.

    Entry 0 of ``poses``, ``rewards`` and ``uncertainties`` is the first frame; entry i + 1 is the frame that
    ``controls[i]`` led to.
    """

    poses: list[PlanarPose | None]
    controls: list[Control] = field(default_factory=list)
    rewards: list[float] = field(default_factory=lambda: [0.0])
    uncertainties: list[float | None] = field(default_factory=lambda: [0.0])

    def add(self, control: Control, step: Step) -> None:
        """Note the frame that ``control`` led to."""
        self.controls.append(control)
        self.poses.append(planar_pose(step.pose))
        self.rewards.append(step.reward)
        self.uncertainties.append(step.uncertainty)

    def drop(self, frames: int) -> None:
        """Forget the last frames."""
        keep = len(self.controls) - frames
        del (
            self.controls[keep:],
            self.poses[keep + 1 :],
            self.rewards[keep + 1 :],
            self.uncertainties[keep + 1 :],
        )

    def copy(self) -> Trajectory:
        """Another trajectory with the same past."""
        return Trajectory(list(self.poses), list(self.controls), list(self.rewards), list(self.uncertainties))


@dataclass
class Branch:
    """A session with its trajectory.

    ``start`` is the number of the world's start context, ``agent`` who steers where no person does.
    """

    session: Session
    agent: Agent
    start: int
    trajectory: Trajectory
    ended: bool = False

    @classmethod
    def begin(cls, session: Session, agent: Agent, start: int) -> Branch:
        """A branch at its first frame."""
        first = [planar_pose(session.pose)]
        return cls(
            session, agent, start, Trajectory(first, uncertainties=[None if session.pose is None else 0.0])
        )

    def arrived(self, control: Control, step: Step) -> None:
        """Note the frame that ``control`` led to."""
        self.trajectory.add(control, step)
        self.ended = step.terminated

    def back(self, frames: int) -> None:
        """Go back by so many frames. Raises EngineError, and changes nothing, if the session cannot."""
        if frames:
            self.session.rewind(frames)
            self.trajectory.drop(frames)
            self.ended = False


def planar_pose(pose: np.ndarray | None) -> PlanarPose | None:
    """x, y and yaw of a camera; None without a pose."""
    if pose is None:
        return None
    x, y, _, yaw = camera.planar(pose)
    return float(x), float(y), float(yaw)
