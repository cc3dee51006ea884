"""Tasks of the evaluation suite beside rollouts of trajectories: actions, loops, long rollouts, ends.

Each task first goes through the real environment, one task after the other; then its rollouts are jobs that
may run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from worldsim.data.collector import Collector
from worldsim.engine.world import World
from worldsim.evaluation import (
    action_effects,
    drift,
    episode_lengths,
    loop_closure,
    objects,
    outcomes,
    whole_episodes,
)
from worldsim.evaluation.detector import Detector
from worldsim.evaluation.failures import Failures
from worldsim.evaluation.idm.model import InverseDynamicsModel
from worldsim.evaluation.metric import Metric
from worldsim.evaluation.objects_before_ends import metrics_before_ends
from worldsim.evaluation.simulator import BranchPoint, Simulator, branch_points
from worldsim.evaluation.trajectories import Trajectories
from worldsim.evaluation.whole_episodes import EpisodeTools

__all__ = ["Job", "TaskSizes", "Tasks", "prepare"]

_T = TypeVar("_T")
_CONTEXT = 4
_BATCH = 8
"""Approximate number of sessions of a job."""
_LONGEST = 900
"""Frames of a walk that the source is asked for: its own episodes are cut at about a thousand."""


@dataclass(frozen=True, slots=True)
class Job:
    """Rollouts of one task; jobs may run in parallel."""

    task: str
    """Its name."""
    rollout: Callable[[], Mapping[str, np.ndarray]]
    """Function that returns the scores."""

    def __call__(self) -> tuple[str, Mapping[str, np.ndarray]]:
        """The task's name, and scores."""
        return self.task, self.rollout()


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSizes:
    """Sizes of the tasks; 0: a task is left out."""

    branch_points: int = 0
    """Number of branch points."""
    loops: int = 0
    """Loops for each duration: around, or out and back."""
    seconds: tuple[int, ...] = (8,)
    """Durations of the loops in seconds."""
    endings: int = 0
    """Episodes whose ends are compared with the heads' predictions."""
    episodes: int = 0
    """Whole episodes of worlds without a scene, for their lengths and ends; instead of ``endings``."""
    long_rollouts: int = 0
    """Long rollouts under random controls; half as many without a key."""
    frames: int = 256
    """Frames of a long rollout."""
    long_rollout_denoising_steps: int | None = None
    """Denoising steps K of long rollouts, where so many draw whole frames; None: those of the others."""


@dataclass
class Tasks:
    """The real side of all tasks, the jobs that run rollouts, and what came out of them."""

    jobs: list[Job] = field(default_factory=list)
    real: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    imagined: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)
    kinds: tuple[str, ...] = ()
    """Kinds of the objects that were detected."""

    def add(self, name: str, scores: Mapping[str, np.ndarray]) -> None:
        """Add the scores of a job."""
        held = self.imagined.setdefault(name, {})
        for key, values in scores.items():
            held[key] = np.concatenate([held[key], values]) if key in held else values

    def metrics(self, names: tuple[str, ...], lower: float | None, upper: float | None) -> dict[str, Metric]:
        """All metrics of the tasks, for a world of these keys; a task that failed has none.

        ``lower`` and ``upper``: dB of an unrelated frame, and of a frame encoded and decoded.
        """
        imagined, real = self.imagined, self.real
        loop_names = sorted((name for name in imagined if name.startswith("loop")), key=lambda n: int(n[4:]))
        made: dict[str, Callable[[], dict[str, Metric]]] = {
            "action effects": lambda: action_effects.action_effect_metrics(
                imagined["action effects"]["motion"], real["action effects"], names
            ),
            **{
                name: partial(loop_closure.loop_closure_metrics, imagined[name], int(name[4:]), upper)
                for name in loop_names
            },
            "drift": lambda: drift.drift_metrics(imagined["drift"], real["drift"]),
            "idle": lambda: drift.idle_metrics(imagined["idle"], lower, upper),
            "ends": lambda: outcomes.outcome_metrics(imagined["ends"]),
            "objects": lambda: objects.object_metrics(imagined["objects"], self.kinds),
            "lengths": lambda: _of_lengths(imagined["lengths"], self.kinds),
        }
        metrics: dict[str, Metric] = {}
        for name, make in made.items():
            if name in imagined and name not in self.failures:
                with self.failures.of(name):
                    metrics |= make()
        return metrics


def _of_lengths(scores: Mapping[str, np.ndarray], kinds: tuple[str, ...]) -> dict[str, Metric]:
    """Metrics of whole episodes' lengths and, where objects are looked for, of what is seen before ends."""
    found = episode_lengths.episode_length_metrics(scores)
    return found | (metrics_before_ends(scores, kinds) if "real_before_end" in scores else {})


def prepare(
    world: World,
    collector: Collector,
    simulator: Simulator | None,
    idm: InverseDynamicsModel | None,
    sizes: TaskSizes,
    tools: EpisodeTools | None = None,
    *,
    denoising_steps: int,
    seeds: Iterator[int],
    seed: int,
) -> Tasks:
    """Go through the real environment, and lay out the rollouts. A task that fails is noted and left out.

    Args:
        world: the world.
        collector: plays its source.
        simulator: the source itself; None: only what needs no chosen controls is measured.
        idm: None: nothing is measured that needs one.
        sizes: how much.
        tools: what objects and lengths of episodes are measured with; None: they are left out.
        denoising_steps: denoising passes K.
        seeds: of the episodes that are played.
        seed: of the rollouts' chance.
    """
    tasks, rollout = Tasks(), _RolloutScorer(world, denoising_steps, seed)
    if world.networks.scene is None and sizes.episodes:
        _prepare_episodes(tasks, rollout, collector, sizes.episodes, seeds, tools or EpisodeTools())
    elif sizes.endings:
        with tasks.failures.of("ends"):
            stretches = outcomes.endings(collector, seeds, sizes.endings)
            if stretches:
                tasks.jobs.append(Job("ends", partial(outcomes.score_outcomes, world, stretches)))
    if simulator is None:
        return tasks
    found: list[BranchPoint] = []
    with tasks.failures.of("branch points"):
        found = branch_points(
            collector, seeds, max(sizes.branch_points, 2 * sizes.long_rollouts), _CONTEXT, 0
        )
    if idm is not None and sizes.branch_points and found:
        with tasks.failures.of("action effects"):
            tasks.real["action effects"], able = action_effects.source_effects(
                simulator, idm, found[: sizes.branch_points]
            )
            tasks.jobs += [
                Job("action effects", partial(rollout.keys, idm, some, i)) for i, some in _split(able, 2)
            ]
    if sizes.loops and loop_closure.can_loop(simulator):
        for seconds in sizes.seconds:
            with tasks.failures.of(f"loop{seconds}"):
                _prepare_loops(tasks, rollout, collector, simulator, sizes.loops, seconds, seeds)
    if sizes.long_rollouts and found:
        few, whole = sizes.long_rollout_denoising_steps, world.networks.sampler.whole_steps
        long_scorer = replace(rollout, denoising_steps=few) if few in whole else rollout
        some = found[: 2 * sizes.long_rollouts]
        with tasks.failures.of("drift"):
            _prepare_long_rollouts(tasks, long_scorer, simulator, idm, sizes, some)
    return tasks


def _prepare_episodes(
    tasks: Tasks,
    rollout: _RolloutScorer,
    collector: Collector,
    count: int,
    seeds: Iterator[int],
    using: EpisodeTools,
) -> None:
    """Ends, objects and lengths, of the same episodes."""
    with tasks.failures.of("ends"):
        played = whole_episodes.play(collector, seeds, count, using)
        tasks.jobs += [
            Job("ends", partial(outcomes.score_outcomes, rollout.world, some))
            for _, some in _split(played.endings, 2 * _BATCH)
        ]
        with tasks.failures.of("objects"):
            detector = whole_episodes.check_objects(using.detector, played)
            tasks.kinds = detector.kinds
            tasks.jobs += [
                Job("objects", partial(rollout.objects, detector, some, i))
                for i, some in _split(played.stretches, 2 * _BATCH)
            ]
        with tasks.failures.of("lengths"):
            episode_lengths.check_comparable(played.beginnings, played.ended, count)
            tasks.jobs += [
                Job("lengths", partial(rollout.lengths, using.detector, some, i))
                for i, some in _split(played.beginnings, 4 * _BATCH)
            ]


def _prepare_loops(
    tasks: Tasks,
    rollout: _RolloutScorer,
    collector: Collector,
    simulator: Simulator,
    count: int,
    seconds: int,
    seeds: Iterator[int],
) -> None:
    frames = round(seconds * rollout.world.spec.fps)
    begun = branch_points(collector, seeds, count, _CONTEXT, frames // 2)
    ways = loop_closure.source_loops(simulator, begun, frames)
    tasks.jobs += [Job(f"loop{seconds}", partial(rollout.loops, some, i)) for i, some in _split(ways, _BATCH)]


def _prepare_long_rollouts(
    tasks: Tasks,
    rollout: _RolloutScorer,
    simulator: Simulator,
    idm: InverseDynamicsModel | None,
    sizes: TaskSizes,
    found: list[BranchPoint],
) -> None:
    space, frames = simulator.spec.control_space, sizes.frames
    # No episode goes on for as long as a rollout does: the source's walks are some that it can make.
    tasks.real["drift"] = drift.source_rollouts(simulator, idm, found, min(frames, _LONGEST), rollout.seed)
    if not tasks.real["drift"]:
        return
    rng = np.random.default_rng([rollout.seed, 1])
    play = np.stack([drift.random_controls(space, rng, frames) for _ in range(sizes.long_rollouts)])
    idle = drift.idle_controls(space, min(max(sizes.long_rollouts // 2, 2), len(found)), frames)
    kinds = [("drift", play), ("idle", idle)]
    if rollout.world.networks.scene is None:
        del kinds[1]
        tasks.failures["idle"] = "things may move by themselves here: nothing comes to rest without a key"
    rest = np.stack([drift.frame_at_rest(simulator, branch_point) for branch_point in found])
    # The longest of all jobs: first, so that shorter ones fill what one worker has left when another ends.
    tasks.jobs[:0] = [
        Job(
            name,
            partial(rollout.long_rollout, idm, some, (driven[i : i + len(some)], rest[i : i + len(some)]), i),
        )
        for name, driven in kinds
        for i, some in _split(found[: len(driven)], _BATCH // 2)
    ]


@dataclass(frozen=True, slots=True)
class _RolloutScorer:
    """Runner of the rollouts of a task."""

    world: World
    denoising_steps: int
    seed: int

    def keys(
        self, idm: InverseDynamicsModel, some: list[BranchPoint], first: int
    ) -> Mapping[str, np.ndarray]:
        return {
            "motion": action_effects.imagined_effects(
                self.world, idm, some, self.denoising_steps, self.seed + first
            )
        }

    def loops(self, some: list[loop_closure.Loop], first: int) -> Mapping[str, np.ndarray]:
        return loop_closure.score_loops(self.world, some, self.denoising_steps, self.seed + first)

    def objects(self, detector: Detector, some: list[Trajectories], first: int) -> Mapping[str, np.ndarray]:
        return whole_episodes.score_stretches(
            self.world, detector, some, self.denoising_steps, self.seed + first
        )

    def lengths(
        self, detector: Detector | None, some: list[episode_lengths.EpisodeStart], first: int
    ) -> Mapping[str, np.ndarray]:
        return episode_lengths.imagined_lengths(
            self.world, some, self.denoising_steps, self.seed + first, detector
        )

    def long_rollout(
        self,
        idm: InverseDynamicsModel | None,
        some: list[BranchPoint],
        given: tuple[np.ndarray, np.ndarray],
        first: int,
    ) -> Mapping[str, np.ndarray]:
        """``given``: controls, and what is seen at rest."""
        seed = self.seed + first
        return drift.long_rollout(
            self.world, idm, some, *given, denoising_steps=self.denoising_steps, seed=seed
        )


def _split(items: list[_T], size: int) -> list[tuple[int, list[_T]]]:
    """Parts of at most ``size``, each with the number of its first item."""
    return [(i, items[i : i + size]) for i in range(0, len(items), size)]
