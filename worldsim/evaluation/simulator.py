"""The real environment under chosen controls: the same moment again and again, with another key each time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worldsim.context import Context
from worldsim.controls import Control
from worldsim.data.clips import shift
from worldsim.data.collector import Collector
from worldsim.data.spec import SourceSpec
from worldsim.errors import SourceError
from worldsim.evaluation.trajectories import MOST_SKIPPED

__all__ = ["BranchPoint", "Simulator", "SimulatorStep", "SourceRun", "act", "branch_points", "replay_to"]

_TRIES = 8


class SimulatorStep(Protocol):
    """Observation of the source."""

    frame: np.ndarray
    pose: np.ndarray | None
    terminated: bool
    truncated: bool


class Simulator(Protocol):
    """Deterministic simulator; every source is one."""

    @property
    def spec(self) -> SourceSpec:
        """The source's fixed properties."""

    def reset(self, seed: int) -> SimulatorStep:
        """Begin the episode that ``seed`` fixes."""

    def step(self, control: Control) -> SimulatorStep:
        """Hold ``control`` for one frame."""


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A branch_point of a real episode, from which rollout and source go on side by side."""

    context: Context
    """Frames up to it, with the action prefix."""
    future: np.ndarray
    """``float32 [T, M]``: the controls that its episode went on with."""


@dataclass(frozen=True, slots=True)
class SourceRun:
    """T + 1 real frames, the first of which is the branch_point's own."""

    frames: np.ndarray
    """``uint8 [T + 1, H, W, 3]``."""
    poses: np.ndarray | None
    """``float64 [T + 1, 4, 4]``."""
    controls: np.ndarray
    """``float32 [T + 1, M]``: what led into each frame; zeros into the first."""


def branch_points(
    collector: Collector, seeds: Iterator[int], count: int, given: int, future: int
) -> list[BranchPoint]:
    """Moments of ``count`` episodes, with ``given`` frames before each and ``future`` controls after it.

    Raises:
        SourceError: nearly all episodes are too short.
    """
    found: list[BranchPoint] = []
    for _ in range(_TRIES * count):
        episode = collector.play(next(seeds))
        room = len(episode) - given - future
        if room >= 0:
            at = given - 1 + int(np.random.default_rng(episode.seed).integers(min(room, MOST_SKIPPED) + 1))
            led = shift(episode.controls, episode.rewards, episode.terminated).controls
            seen = slice(at + 1 - given, at + 1)
            poses = None if episode.poses is None else episode.poses[seen]
            way = episode.controls[:at]
            context = Context(episode.frames[seen], led[seen], poses, episode.seed, way)
            found.append(BranchPoint(context, episode.controls[at : at + future]))
        if len(found) == count:
            return found
    rule = f"a source must play episodes of at least {given + future} frames"
    raise SourceError(rule, f"{len(found)} of {_TRIES * count}", "measure less")


def replay_to(simulator: Simulator, branch_point: BranchPoint) -> SimulatorStep:
    """Replay the episode up to a branch point."""
    context, space = branch_point.context, simulator.spec.control_space
    assert context.seed is not None, "a branch_point is of a real episode"
    assert context.action_prefix is not None, "a branch_point knows its way"
    seen = simulator.reset(context.seed)
    for row in context.action_prefix:
        seen = simulator.step(space.from_vector(row))
    return seen


def act(simulator: Simulator, branch_point: BranchPoint, controls: Iterable[Control]) -> SourceRun | None:
    """Run the source from a branch point; None where the episode ends on the way."""
    space, seen = simulator.spec.control_space, [replay_to(simulator, branch_point)]
    rows = [np.zeros(space.size, np.float32)]
    for control in controls:
        if seen[-1].terminated or seen[-1].truncated:
            return None
        seen.append(simulator.step(control))
        rows.append(space.vector(control))
    return None if seen[-1].terminated else as_run(seen, rows)


def as_run(seen: list[SimulatorStep], rows: list[np.ndarray]) -> SourceRun:
    """Return a run of observations and controls."""
    poses = [row.pose for row in seen if row.pose is not None]
    return SourceRun(
        np.stack([row.frame for row in seen]), np.stack(poses) if poses else None, np.stack(rows)
    )
