"""The yardstick: real episodes are played, every way of dreaming them is scored, figures come out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from worldsim.data.recorder import Player
from worldsim.engine.world import World
from worldsim.errors import SourceError
from worldsim.evaluation.figure import Figure
from worldsim.evaluation.figures import figures_of
from worldsim.evaluation.open_loop import Walk, score_dream, score_true
from worldsim.evaluation.teacher import Plan, teacher_forced
from worldsim.evaluation.trajectories import Trajectories, check_seeds, collect, reporting_seeds
from worldsim.sampling.flow import STEPS

__all__ = ["CONTEXT", "FULL", "QUICK", "Report", "Scope", "evaluate"]

CONTEXT = 4
"""Frames that are given before a dream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """How much is measured."""

    trajectories: int
    teacher: int
    """Frames of each trajectory that are gone through teacher-forced."""
    every: int
    """One in so many of these is scored."""
    horizon: int = 256
    """Frames of the longest dream."""
    batch: int = 8
    """Trajectories at a time; controls are shuffled among them. Larger ones are slower on a CPU."""


QUICK = Scope(trajectories=16, teacher=64, every=4)
FULL = Scope(trajectories=96, teacher=64, every=2)


@dataclass(frozen=True, slots=True)
class Report:
    """What comes out."""

    figures: Mapping[str, Figure]
    seeds: tuple[int, ...]
    """Of the real episodes."""
    scored: int
    """Teacher-forced frames that were scored."""


def evaluate(
    world: World,
    player: Player,
    scope: Scope,
    *,
    steps: int = 2,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Report:
    """Hold a world against its source.

    Args:
        world: the world.
        player: plays the source that it was learnt from, at the world's frame size.
        scope: how much to measure.
        steps: denoising passes K of all figures that do not name another.
        seed: which of the reporting runs: of its episodes, and of the dreams' chance.
        workers: batches that are scored side by side. On a CPU give each core one, and torch one thread: that
            is faster than all cores on one batch, and the figures do not depend on how many there are.
        on_progress: called with the share that is done.

    Raises:
        DataError: a start's seed is a reporting seed.
        SourceError: the player plays another source, or its episodes are too short.
    """
    _check_source(world, player)
    check_seeds(start.seed for start in world.starts)
    seeds = reporting_seeds(seed)
    sizes, length = _batches(scope.trajectories, scope.batch), CONTEXT + max(scope.horizon, scope.teacher)
    progress = _Progress(len(sizes), on_progress)
    batches: list[dict[str, np.ndarray]] = []
    played: list[int] = []

    def score(job: tuple[int, Trajectories]) -> dict[str, np.ndarray]:
        number, true = job
        return _score(world, true, scope, steps, seed * 1000 + number * scope.batch, progress.of(number))

    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(sizes), workers):
            wave = [collect(player, seeds, size, length) for size in sizes[first : first + workers]]
            batches += pool.map(score, enumerate(wave, first))
            played += [number for true in wave for number in true.seeds]
    scores = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return Report(figures_of(scores, steps), tuple(played), scores["copy"].size)


class _Progress:
    """The share done of all batches, from the shares done of each, whichever thread tells them."""

    def __init__(self, batches: int, tell: Callable[[float], None]) -> None:
        self._shares = [0.0] * batches
        self._tell = tell
        self._lock = threading.Lock()

    def of(self, batch: int) -> Callable[[float], None]:
        """What batch number ``batch`` tells."""

        def told(share: float) -> None:
            with self._lock:
                self._shares[batch] = share
                self._tell(sum(self._shares) / len(self._shares))

        return told


def _score(
    world: World,
    true: Trajectories,
    scope: Scope,
    steps: int,
    seed: int,
    on_progress: Callable[[float], None],
) -> dict[str, np.ndarray]:
    """All scores of one batch; those of a dream are named ``<dream>.<score>``."""
    others = [k for k in STEPS if k != steps]
    plan = Plan(context=CONTEXT, frames=scope.teacher, every=scope.every, steps=(steps, *others))
    scores = dict(teacher_forced(world, true, plan, seed))
    still = score_true(true, CONTEXT, scope.horizon)
    walks = _walks(world, true, scope.horizon, steps)
    cost = [walk.frames for walk in walks.values()]
    for i, (name, walk) in enumerate(walks.items()):
        on_progress(0.3 + 0.7 * sum(cost[:i]) / sum(cost))
        scores |= {f"{name}.{key}": values for key, values in score_dream(world, true, walk, seed).items()}
    on_progress(1.0)
    return scores | {f"still.{key}": values for key, values in still.items()}


def _walks(world: World, true: Trajectories, horizon: int, steps: int) -> dict[str, Walk]:
    """The dreams that are scored: with the true controls, another trajectory's, true poses, and other K."""
    longest = Walk(context=CONTEXT, frames=horizon, steps=steps, controls=true.controls)
    middle = replace(longest, frames=min(horizon, 64))
    walks = {"true": longest, "shuffled": replace(middle, controls=np.roll(true.controls, 1, 0))}
    if world.networks.has_poses:
        walks["pose"] = replace(middle, poses=true.poses)
    for k in STEPS:
        if k != steps:
            walks[f"k{k}"] = replace(longest, frames=min(horizon, 16), steps=k)
    return walks


def _batches(count: int, most: int) -> list[int]:
    """Sizes of about equal batches; at least two trajectories in each, as controls are swapped."""
    number = max(-(-count // most), 1)
    return [max(len(part), 2) for part in np.array_split(np.arange(count), number)]


def _check_source(world: World, player: Player) -> None:
    ours, theirs = world.spec, player.spec
    same = (ours.name, tuple(ours.size), ours.control_space.keys, ours.tics)
    found = (theirs.name, tuple(theirs.size), theirs.control_space.keys, theirs.tics)
    if same != found:
        raise SourceError(f"a world must be held against its own source, {same}", found)
