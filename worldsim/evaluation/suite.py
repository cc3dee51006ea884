"""The evaluation suite: plays real episodes, scores rollouts against them, computes metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat

import numpy as np

from worldsim.data.collector import Collector
from worldsim.engine.world import World
from worldsim.errors import ConfigError, SourceError
from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.baselines.score import baseline_metrics
from worldsim.evaluation.failures import Failures
from worldsim.evaluation.idm.model import InverseDynamicsModel, idm_supports
from worldsim.evaluation.metric import Metric, estimate
from worldsim.evaluation.metrics import compute_metrics
from worldsim.evaluation.scoring import Batch, score_batch, score_long
from worldsim.evaluation.simulator import Simulator
from worldsim.evaluation.tasks import Job, Tasks, TaskSizes, prepare
from worldsim.evaluation.trajectories import (
    ShortEpisodesError,
    Trajectories,
    check_seeds,
    collect,
    reporting_seeds,
)
from worldsim.evaluation.whole_episodes import EpisodeTools
from worldsim.sampling.protocol import check_denoising_steps

__all__ = ["CONTEXT", "FULL", "LONG", "QUICK", "SHORT", "EvalConfig", "Report", "evaluate"]

CONTEXT = 4
"""Given frames before a rollout."""
LONG = 1024
"""Frames of the longest rollouts with ground truth."""
SHORT = 64
"""Frames of the rollouts where chance soon tasks them from the truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Sizes of an evaluation."""

    trajectories: int
    teacher_forced_frames: int
    """Teacher-forced frames of each trajectory."""
    score_every: int
    """Stride of the scored frames."""
    horizon: int = 256
    """Frames of the longest rollout."""
    batch: int = 8
    """Trajectories at a time; controls are shuffled among them. Larger ones are slower on a CPU."""
    long_trajectories: int = 0
    """Trajectories with rollouts of 1,024 frames."""
    tasks: TaskSizes = field(default_factory=TaskSizes)
    """Sizes of the tasks: action effects, loop closure, long rollouts, ends."""


QUICK = EvalConfig(
    trajectories=16,
    teacher_forced_frames=64,
    score_every=4,
    tasks=TaskSizes(
        branch_points=4,
        loops=2,
        endings=8,
        episodes=48,
        long_rollouts=2,
        frames=160,
        long_rollout_denoising_steps=1,
    ),
)
FULL = EvalConfig(
    trajectories=96,
    teacher_forced_frames=64,
    score_every=2,
    long_trajectories=16,
    tasks=TaskSizes(
        branch_points=32,
        loops=12,
        seconds=(2, 8, 24),
        endings=96,
        episodes=192,
        long_rollouts=8,
        frames=5000,
        long_rollout_denoising_steps=1,
    ),
)


@dataclass(frozen=True, slots=True)
class Report:
    """Result of an evaluation."""

    metrics: Mapping[str, Metric]
    seeds: tuple[int, ...]
    """Seeds of the episodes that rollouts are compared with frame by frame."""
    scored: int
    """Teacher-forced frames that were scored."""
    length: int
    """Frames of each of these stretches; fewer than asked for where episodes are short."""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    """Scores per trajectory, of which the metrics are computed."""
    tasks: Tasks = field(default_factory=Tasks, compare=False, repr=False)
    """The same for the tasks."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Failed tasks, each with the reason."""


def evaluate(
    world: World,
    collector: Collector,
    config: EvalConfig,
    *,
    simulator: Simulator | None = None,
    idm: InverseDynamicsModel | None = None,
    tools: EpisodeTools | None = None,
    baselines: tuple[Baseline, ...] = (),
    denoising_steps: int | None = None,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Report:
    """Evaluate a world against its source.

    Args:
        world: the world.
        collector: plays the source that it was learnt from, at the world's frame size.
        config: how much to measure.
        simulator: the source itself; None: action effects, loops and long rollouts are left out.
        idm: inverse dynamics model; None: metrics that need it are left out.
        tools: detector and policy for objects and episode lengths; None: they are left out.
        baselines: baselines to evaluate on the same trajectories.
        denoising_steps: denoising passes K of all metrics that do not name another (default: the sampler's).
        seed: number of the reporting run; it seeds episodes and rollouts.
        workers: batches that are scored side by side. On a CPU give each core one, and torch one thread: that
            is faster than all cores on one batch, and the metrics do not depend on how many there are.
        on_progress: called with the share that is done.

    Raises:
        DataError: a start's seed is a reporting seed.
        SourceError: the collector plays another source, or nothing could be measured.
        ConfigError: a baseline of another frame size or other keys.
    """
    _check_source(world, collector)
    _check_baselines(world, baselines)
    check_seeds(start.seed for start in world.starts)
    idm = idm if idm_supports(world.spec) else None
    seeds = reporting_seeds(seed)
    denoising_steps = check_denoising_steps(world.networks.sampler, denoising_steps)
    options = _ScoringOptions(idm, baselines, denoising_steps, seed)
    recorded = _Recorded(world, collector, config, options)
    failures, scores = Failures(), dict[str, np.ndarray]()
    with ThreadPoolExecutor(workers) as pool:
        progress = _Progress(on_progress, recorded.costs, config.tasks)
        with failures.of("rollouts"):
            scores = recorded.run(pool, workers, seeds, progress)
        with failures.of("long rollouts"):
            scores |= recorded.run_long(pool, workers, seeds, progress) if scores else {}
        sizes, run_seed = config.tasks, seed * 1000 + 500
        prepared = partial(prepare, denoising_steps=denoising_steps, seeds=seeds, seed=run_seed)
        tasks = prepared(world, collector, simulator, idm, sizes, tools)
        _run_jobs(pool, tasks, progress)
    on_progress(1.0)
    metrics, scored = _metrics(world, scores, tasks, options, failures), scores["copy"].size if scores else 0
    return Report(metrics, recorded.seeds, scored, recorded.length, scores, tasks, failures)


def _run_jobs(pool: ThreadPoolExecutor, tasks: Tasks, progress: _Progress) -> None:
    """Run the jobs of all tasks and add their scores."""
    progress.expect(len(tasks.jobs))
    jobs = pool.map(progress.counted, tasks.jobs, repeat(tasks.failures))
    for job, found in zip(tasks.jobs, jobs, strict=True):
        tasks.add(job.task, found)


def _metrics(
    world: World, scores: Mapping[str, np.ndarray], tasks: Tasks, options: _ScoringOptions, failures: Failures
) -> dict[str, Metric]:
    """Metrics of rollouts and of all tasks.

    Raises:
        SourceError: there are none.
    """
    metrics: dict[str, Metric] = {}
    if scores:
        with failures.of("rollouts"):
            metrics |= compute_metrics(scores, options.denoising_steps, world.spec.fps)
        for baseline in options.baselines:
            with failures.of(baseline.name):
                metrics |= baseline_metrics(baseline.name, scores)
    lower, upper = (estimate(scores[name]).value if scores else None for name in ("unrelated", "tokenizer"))
    metrics |= tasks.metrics(world.spec.control_space.keys, lower, upper)
    failures |= tasks.failures
    if not metrics:
        raise SourceError("something of a world must be measurable", dict(failures))
    return metrics


@dataclass(frozen=True, slots=True)
class _ScoringOptions:
    """Options of scoring a batch."""

    idm: InverseDynamicsModel | None
    baselines: tuple[Baseline, ...]
    denoising_steps: int
    seed: int


class _Recorded:
    """Rollouts of recorded trajectories, batch by batch."""

    def __init__(
        self, world: World, collector: Collector, config: EvalConfig, options: _ScoringOptions
    ) -> None:
        self._world, self._player, self._config, self._options = world, collector, config, options
        self._sizes = _batches(config.trajectories, config.batch)
        self._longs = _batches(config.long_trajectories, config.batch) if config.long_trajectories else []
        self.length = CONTEXT + max(config.horizon, config.teacher_forced_frames)
        self.costs = [1.0] * len(self._sizes) + [2.0] * len(self._longs)
        """Approximate cost of each batch."""
        self.seeds: tuple[int, ...] = ()
        """Seeds of the episodes played."""

    def run(
        self, pool: ThreadPoolExecutor, workers: int, seeds: Iterator[int], progress: _Progress
    ) -> dict[str, np.ndarray]:
        """Play and score all but the long rollouts. Where episodes are short, so are the rollouts.

        Raises:
            ShortEpisodesError: half of the episodes have no frames to imagine after those that are given.
        """
        while True:
            self.seeds = ()
            try:
                return self._scored(self._sizes, self.length, 0, pool, workers, seeds, progress)
            except ShortEpisodesError as short:
                self.length = short.reachable(CONTEXT + 2)
                most, config = self.length - CONTEXT, self._config
                horizon, teacher_forced = min(config.horizon, most), min(config.teacher_forced_frames, most)
                self._config = replace(config, horizon=horizon, teacher_forced_frames=teacher_forced)

    def run_long(
        self, pool: ThreadPoolExecutor, workers: int, seeds: Iterator[int], progress: _Progress
    ) -> dict[str, np.ndarray]:
        """Play and score the long rollouts.

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
        config = self._config
        batch = Batch(
            world=self._world,
            true=true,
            idm=self._options.idm,
            baselines=self._options.baselines,
            context=CONTEXT,
            denoising_steps=self._options.denoising_steps,
            seed=self._options.seed * 1000 + number * config.batch,
        )
        if number >= len(self._sizes):
            return score_long(batch, LONG, told)
        return score_batch(batch, config.teacher_forced_frames, config.score_every, config.horizon, told)


class _Progress:
    """The share done of everything, from the shares done of each batch and job, whichever thread tells."""

    def __init__(self, tell: Callable[[float], None], costs: list[float], tasks: TaskSizes) -> None:
        self._tell, self._costs = tell, costs
        self._shares = [0.0] * len(costs)
        self._weight = 0.4 * len(costs) if tasks.branch_points or tasks.long_rollouts else 0.0
        self._jobs, self._done = 1, 0
        self._lock = threading.Lock()

    def of(self, batch: int) -> Callable[[float], None]:
        """Return the progress callback of batch number ``batch``."""

        def told(share: float) -> None:
            with self._lock:
                self._shares[batch] = share
                self._told()

        return told

    def expect(self, jobs: int) -> None:
        """Set the number of jobs that follow the batches."""
        self._jobs = max(jobs, 1)

    def counted(self, job: Job, failures: Failures) -> Mapping[str, np.ndarray]:
        """Run a job and count it; no scores where it failed."""
        scores: Mapping[str, np.ndarray] = {}
        with failures.of(job.task):
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


def _check_source(world: World, collector: Collector) -> None:
    ours, theirs = world.spec, collector.spec
    same, found = (
        (spec.name, tuple(spec.size), space.keys, space.prompts, space.action, spec.tics)
        for spec, space in ((spec, spec.control_space) for spec in (ours, theirs))
    )
    if same != found:
        raise SourceError(f"a world must be held against its own source, {same}", found)
