"""The real environment under chosen controls: the same moment again and again, with another key each time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worldsim.checkpoint import Context
from worldsim.controls import Control
from worldsim.data.clips import shift
from worldsim.data.recorder import Player
from worldsim.data.spec import SourceSpec
from worldsim.errors import SourceError
from worldsim.evaluation.trajectories import MOST_SKIPPED

__all__ = ["Moment", "Run", "Seen", "Stage", "act", "go_to", "moments"]

_TRIES = 8


class Seen(Protocol):
    """What the environment shows."""

    frame: np.ndarray
    pose: np.ndarray | None
    terminated: bool
    truncated: bool


class Stage(Protocol):
    """A deterministic environment; every source is one."""

    @property
    def spec(self) -> SourceSpec:
        """The source's fixed properties."""

    def reset(self, seed: int) -> Seen:
        """Begin the episode that ``seed`` fixes."""

    def step(self, control: Control) -> Seen:
        """Hold ``control`` for one frame."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a real episode, from which dream and environment go on side by side."""

    context: Context
    """The frames up to it, with the way there."""
    future: np.ndarray
    """``float32 [T, M]``: the controls that its episode went on with."""


@dataclass(frozen=True, slots=True)
class Run:
    """T + 1 real frames, the first of which is the moment's own."""

    frames: np.ndarray
    """``uint8 [T + 1, H, W, 3]``."""
    poses: np.ndarray | None
    """``float64 [T + 1, 4, 4]``."""
    controls: np.ndarray
    """``float32 [T + 1, M]``: what led into each frame; zeros into the first."""


def moments(player: Player, seeds: Iterator[int], count: int, given: int, future: int) -> list[Moment]:
    """Moments of ``count`` episodes, with ``given`` frames before each and ``future`` controls after it.

    Raises:
        SourceError: nearly all episodes are too short.
    """
    found: list[Moment] = []
    for _ in range(_TRIES * count):
        episode = player.play(next(seeds))
        room = len(episode) - given - future
        if room >= 0:
            at = given - 1 + int(np.random.default_rng(episode.seed).integers(min(room, MOST_SKIPPED) + 1))
            led = shift(episode.controls, episode.rewards, episode.terminated).controls
            seen = slice(at + 1 - given, at + 1)
            poses = None if episode.poses is None else episode.poses[seen]
            way = episode.controls[:at]
            context = Context(episode.frames[seen], led[seen], poses, episode.seed, way)
            found.append(Moment(context, episode.controls[at : at + future]))
        if len(found) == count:
            return found
    rule = f"a source must play episodes of at least {given + future} frames"
    raise SourceError(rule, f"{len(found)} of {_TRIES * count}", "measure less")


def go_to(stage: Stage, moment: Moment) -> Seen:
    """Bring the environment to a moment."""
    context, space = moment.context, stage.spec.control_space
    assert context.seed is not None, "a moment is of a real episode"
    assert context.prefix is not None, "a moment knows its way"
    seen = stage.reset(context.seed)
    for row in context.prefix:
        seen = stage.step(space.from_vector(row))
    return seen


def act(stage: Stage, moment: Moment, controls: Iterable[Control]) -> Run | None:
    """What the environment shows from a moment on; None where the episode ends on the way."""
    space, seen = stage.spec.control_space, [go_to(stage, moment)]
    rows = [np.zeros(space.size, np.float32)]
    for control in controls:
        if seen[-1].terminated or seen[-1].truncated:
            return None
        seen.append(stage.step(control))
        rows.append(space.vector(control))
    return None if seen[-1].terminated else run_of(seen, rows)


def run_of(seen: list[Seen], rows: list[np.ndarray]) -> Run:
    """A run of what was seen and done."""
    poses = [row.pose for row in seen if row.pose is not None]
    return Run(np.stack([row.frame for row in seen]), np.stack(poses) if poses else None, np.stack(rows))
