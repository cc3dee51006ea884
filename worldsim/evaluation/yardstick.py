"""The yardstick: real episodes are played, every way of dreaming them is scored, figures come out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat

import numpy as np

from worldsim.data.recorder import Player
from worldsim.engine.world import World
from worldsim.errors import ConfigError, SourceError
from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.baselines.score import baseline_figures
from worldsim.evaluation.batch import Batch, score_batch, score_long
from worldsim.evaluation.failures import Failures
from worldsim.evaluation.figure import Figure, estimate
from worldsim.evaluation.figures import figures_of
from worldsim.evaluation.judge import Judge, can_be_judged
from worldsim.evaluation.moving import Moving
from worldsim.evaluation.parts import Job, Parts, Sizes, prepare
from worldsim.evaluation.stage import Stage
from worldsim.evaluation.trajectories import (
    ShortEpisodesError,
    Trajectories,
    check_seeds,
    collect,
    reporting_seeds,
)

__all__ = ["CONTEXT", "FULL", "LONG", "QUICK", "SHORT", "Report", "Scope", "evaluate"]

CONTEXT = 4
"""Frames that are given before a dream."""
LONG = 1024
"""Frames of the longest dreams that the truth is known of."""
SHORT = 64
"""Frames of the dreams where chance soon parts them from the truth."""


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
    long: int = 0
    """Trajectories that are dreamt for 1,024 frames."""
    parts: Sizes = field(default_factory=Sizes)
    """Of keys, loops, long walks and ends."""


QUICK = Scope(
    trajectories=16,
    teacher=64,
    every=4,
    parts=Sizes(moments=4, loops=2, endings=8, episodes=48, walks=2, frames=160, walk_steps=1),
)
FULL = Scope(
    trajectories=96,
    teacher=64,
    every=2,
    long=16,
    parts=Sizes(
        moments=32,
        loops=12,
        seconds=(2, 8, 24),
        endings=96,
        episodes=192,
        walks=8,
        frames=5000,
        walk_steps=1,
    ),
)


@dataclass(frozen=True, slots=True)
class Report:
    """What comes out."""

    figures: Mapping[str, Figure]
    seeds: tuple[int, ...]
    """Of the real episodes that dreams are held against frame by frame."""
    scored: int
    """Teacher-forced frames that were scored."""
    length: int
    """Frames of each of these stretches; fewer than asked for where episodes are short."""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    """What the figures are of, per trajectory."""
    parts: Parts = field(default_factory=Parts, compare=False, repr=False)
    """Likewise of keys, loops, long walks and ends."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Parts that could not be measured, each with the reason."""


def evaluate(
    world: World,
    player: Player,
    scope: Scope,
    *,
    stage: Stage | None = None,
    judge: Judge | None = None,
    moving: Moving | None = None,
    baselines: tuple[Baseline, ...] = (),
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
        stage: the source itself, for chosen controls; None: keys, loops and long walks are left out.
        judge: reads motion and keys from frames; None: what needs it is left out.
        moving: what objects and lengths of episodes are measured with; None: they are left out.
        baselines: what the world is to be better than, on the same trajectories.
        steps: denoising passes K of all figures that do not name another.
        seed: which of the reporting runs: of its episodes, and of the dreams' chance.
        workers: batches that are scored side by side. On a CPU give each core one, and torch one thread: that
            is faster than all cores on one batch, and the figures do not depend on how many there are.
        on_progress: called with the share that is done.

    Raises:
        DataError: a start's seed is a reporting seed.
        SourceError: the player plays another source, or nothing could be measured.
        ConfigError: a baseline of another frame size or other keys.
    """
    _check_source(world, player)
    _check_baselines(world, baselines)
    check_seeds(start.seed for start in world.starts)
    judge = judge if can_be_judged(world.spec) else None
    seeds = reporting_seeds(seed)
    how = _How(judge, baselines, steps, seed)
    recorded = _Recorded(world, player, scope, how)
    failures, scores = Failures(), dict[str, np.ndarray]()
    with ThreadPoolExecutor(workers) as pool:
        progress = _Progress(on_progress, recorded.costs, scope.parts)
        with failures.of("dreams"):
            scores = recorded.run(pool, workers, seeds, progress)
        with failures.of("long dreams"):
            scores |= recorded.run_long(pool, workers, seeds, progress) if scores else {}
        parts = prepare(
            world, player, stage, judge, scope.parts, moving, steps=steps, seeds=seeds, seed=seed * 1000 + 500
        )
        progress.expect(len(parts.jobs))
        jobs = pool.map(progress.counted, parts.jobs, repeat(parts.failures))
        for job, found in zip(parts.jobs, jobs, strict=True):
            parts.add(job.part, found)
    on_progress(1.0)
    figures, scored = _figures(world, scores, parts, how, failures), scores["copy"].size if scores else 0
    return Report(figures, recorded.seeds, scored, recorded.length, scores, parts, failures)


def _figures(
    world: World, scores: Mapping[str, np.ndarray], parts: Parts, how: _How, failures: Failures
) -> dict[str, Figure]:
    """Figures of recorded play that was dreamt again, and of the other parts.

    Raises:
        SourceError: there are none.
    """
    figures: dict[str, Figure] = {}
    if scores:
        with failures.of("dreams"):
            figures |= figures_of(scores, how.steps, world.spec.fps)
        for baseline in how.baselines:
            with failures.of(baseline.name):
                figures |= baseline_figures(baseline.name, scores)
    floor, ceiling = (estimate(scores[name]).value if scores else None for name in ("unrelated", "tokenizer"))
    figures |= parts.figures(world.spec.control_space.keys, floor, ceiling)
    failures |= parts.failures
    if not figures:
        raise SourceError("something of a world must be measurable", dict(failures))
    return figures


@dataclass(frozen=True, slots=True)
class _How:
    """How batches are scored."""

    judge: Judge | None
    baselines: tuple[Baseline, ...]
    steps: int
    seed: int


class _Recorded:
    """Recorded play, dreamt again, batch by batch."""

    def __init__(self, world: World, player: Player, scope: Scope, how: _How) -> None:
        self._world, self._player, self._scope, self._how = world, player, scope, how
        self._sizes = _batches(scope.trajectories, scope.batch)
        self._longs = _batches(scope.long, scope.batch) if scope.long else []
        self.length = CONTEXT + max(scope.horizon, scope.teacher)
        self.costs = [1.0] * len(self._sizes) + [2.0] * len(self._longs)
        """Of each batch, about."""
        self.seeds: tuple[int, ...] = ()
        """Of the episodes played."""

    def run(
        self, pool: ThreadPoolExecutor, workers: int, seeds: Iterator[int], progress: _Progress
    ) -> dict[str, np.ndarray]:
        """Play and score all but the long dreams. Where episodes are short, so are the dreams.

        Raises:
            ShortEpisodesError: half of the episodes have no frames to dream after those that are given.
        """
        while True:
            self.seeds = ()
            try:
                return self._scored(self._sizes, self.length, 0, pool, workers, seeds, progress)
            except ShortEpisodesError as short:
                self.length = short.reachable(CONTEXT + 2)
                most, scope = self.length - CONTEXT, self._scope
                horizon, teacher = min(scope.horizon, most), min(scope.teacher, most)
                self._scope = replace(scope, horizon=horizon, teacher=teacher)

    def run_long(
        self, pool: ThreadPoolExecutor, workers: int, seeds: Iterator[int], progress: _Progress
    ) -> dict[str, np.ndarray]:
        """Play and score the long dreams.

        Raises:
            ShortEpisodesError: nearly all episodes end before they do.
        """
        first = len(self._sizes)
        return self._scored(self._longs, CONTEXT + LONG, first, pool, workers, seeds, progress)

    def _scored(
        self,
        sizes: list[int],
        length: int,
        number: int,
        pool: ThreadPoolExecutor,
        workers: int,
        seeds: Iterator[int],
        progress: _Progress,
    ) -> dict[str, np.ndarray]:
        """Batches from ``number`` on, as many at a time as there are workers: not all fit into memory."""
        found: list[dict[str, np.ndarray]] = []
        for first in range(0, len(sizes), workers):
            wave = [collect(self._player, seeds, size, length) for size in sizes[first : first + workers]]
            self.seeds += tuple(seed for true in wave for seed in true.seeds)
            numbers = range(number + first, number + first + len(wave))
            found += pool.map(self._score, numbers, wave, map(progress.of, numbers))
        return {name: np.concatenate([batch[name] for batch in found]) for name in (found or [{}])[0]}

    def _score(self, number: int, true: Trajectories, told: Callable[[float], None]) -> dict[str, np.ndarray]:
        scope = self._scope
        batch = Batch(
            world=self._world,
            true=true,
            judge=self._how.judge,
            baselines=self._how.baselines,
            context=CONTEXT,
            steps=self._how.steps,
            seed=self._how.seed * 1000 + number * scope.batch,
        )
        if number >= len(self._sizes):
            return score_long(batch, LONG, told)
        return score_batch(batch, scope.teacher, scope.every, scope.horizon, told)


class _Progress:
    """The share done of everything, from the shares done of each batch and job, whichever thread tells."""

    def __init__(self, tell: Callable[[float], None], costs: list[float], parts: Sizes) -> None:
        self._tell, self._costs = tell, costs
        self._shares = [0.0] * len(costs)
        self._weight = 0.4 * len(costs) if parts.moments or parts.walks else 0.0
        self._jobs, self._done = 1, 0
        self._lock = threading.Lock()

    def of(self, batch: int) -> Callable[[float], None]:
        """What batch number ``batch`` tells."""

        def told(share: float) -> None:
            with self._lock:
                self._shares[batch] = share
                self._told()

        return told

    def expect(self, jobs: int) -> None:
        """So many jobs will follow the batches."""
        self._jobs = max(jobs, 1)

    def counted(self, job: Job, failures: Failures) -> Mapping[str, np.ndarray]:
        """Run a job and count it; no scores where it failed."""
        scores: Mapping[str, np.ndarray] = {}
        with failures.of(job.part):
            _, scores = job()
        with self._lock:
            self._done += 1
            self._told()
        return scores

    def _told(self) -> None:
        done = sum(share * cost for share, cost in zip(self._shares, self._costs, strict=True))
        done += self._weight * self._done / self._jobs
        self._tell(done / (sum(self._costs) + self._weight))


def _batches(count: int, most: int) -> list[int]:
    """Sizes of about equal batches; at least two trajectories in each, as controls are swapped."""
    number = max(-(-count // most), 1)
    return [max(len(part), 2) for part in np.array_split(np.arange(count), number)]


def _check_baselines(world: World, baselines: tuple[Baseline, ...]) -> None:
    ours = (tuple(world.spec.size), world.spec.control_space.size)
    for baseline in baselines:
        config = baseline.network.config
        theirs = (tuple(config.size), config.control)
        if theirs != ours:
            rule = f"a baseline must have the world's frame size and controls, {ours}"
            raise ConfigError(rule, theirs, "train it on the data of the world")


def _check_source(world: World, player: Player) -> None:
    ours, theirs = world.spec, player.spec
    same = (ours.name, tuple(ours.size), ours.control_space.keys, ours.tics)
    found = (theirs.name, tuple(theirs.size), theirs.control_space.keys, theirs.tics)
    if same != found:
        raise SourceError(f"a world must be held against its own source, {same}", found)
