"""The parts of the yardstick beside the dreams of recorded play: keys, loops, long walks, ends.

Each part first goes through the real environment, one part after the other; then its dreams are jobs that
may run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from worldsim.data.recorder import Player
from worldsim.engine.world import World
from worldsim.evaluation import drift, episode_lengths, keys, loops, moving, objects, outcomes
from worldsim.evaluation.detector import Detector
from worldsim.evaluation.failures import Failures
from worldsim.evaluation.figure import Figure
from worldsim.evaluation.judge import Judge
from worldsim.evaluation.moving import Moving
from worldsim.evaluation.stage import Moment, Stage, moments
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["Job", "Parts", "Sizes", "prepare"]

_T = TypeVar("_T")
_CONTEXT = 4
_BATCH = 8
"""Sessions of a job, about."""
_LONGEST = 900
"""Frames of a walk that the environment is asked for: its own episodes are cut at about a thousand."""



@dataclass(frozen=True, slots=True)
class Job:
    """Dreams of one part, which may run beside those of others."""

    part: str
    """Its name."""
    dream: Callable[[], Mapping[str, np.ndarray]]
    """Gives its scores."""

    def __call__(self) -> tuple[str, Mapping[str, np.ndarray]]:
        """The part's name, and scores."""
        return self.part, self.dream()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much is measured; 0: not at all."""

    moments: int = 0
    """Moments from which every key is tried."""
    loops: int = 0
    """Ways around or out and back, for each of the delays."""
    seconds: tuple[int, ...] = (8,)
    """How long these ways take."""
    endings: int = 0
    """Episodes whose last frames the heads are held against."""
    episodes: int = 0
    """Whole episodes of worlds without a scene, for their lengths and ends; instead of ``endings``."""
    walks: int = 0
    """Long walks under random play, and half as many without a key."""
    frames: int = 256
    """Of these."""
    walk_steps: int | None = None
    """Denoising passes K of these; None: those of the other figures."""


@dataclass
class Parts:
    """The real side of all parts, the jobs that dream, and what came out of them."""

    jobs: list[Job] = field(default_factory=list)
    real: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    dreamt: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)
    kinds: tuple[str, ...] = ()
    """Of the objects that were looked for."""

    def add(self, name: str, scores: Mapping[str, np.ndarray]) -> None:
        """Take in what a job gave."""
        held = self.dreamt.setdefault(name, {})
        for key, values in scores.items():
            held[key] = np.concatenate([held[key], values]) if key in held else values

    def figures(
        self, names: tuple[str, ...], floor: float | None, ceiling: float | None
    ) -> dict[str, Figure]:
        """All figures of the parts, for a world of these keys; a part that failed has none.

        ``floor`` and ``ceiling``: dB of an unrelated frame, and of a frame encoded and decoded.
        """
        dreamt, real = self.dreamt, self.real
        loop_names = sorted((name for name in dreamt if name.startswith("loop")), key=lambda n: int(n[4:]))
        made: dict[str, Callable[[], dict[str, Figure]]] = {
            "keys": lambda: keys.key_figures(dreamt["keys"]["motion"], real["keys"], names),
            **{
                name: partial(loops.loop_figures, dreamt[name], int(name[4:]), ceiling) for name in loop_names
            },
            "play": lambda: drift.play_figures(dreamt["play"], real["play"]),
            "idle": lambda: drift.idle_figures(dreamt["idle"], floor, ceiling),
            "ends": lambda: outcomes.outcome_figures(dreamt["ends"]),
            "objects": lambda: objects.object_figures(dreamt["objects"], self.kinds),
            "lengths": lambda: episode_lengths.length_figures(dreamt["lengths"]),
        }
        figures: dict[str, Figure] = {}
        for name, make in made.items():
            if name in dreamt and name not in self.failures:
                with self.failures.of(name):
                    figures |= make()
        return figures


def prepare(
    world: World,
    player: Player,
    stage: Stage | None,
    judge: Judge | None,
    sizes: Sizes,
    moving_with: Moving | None = None,
    *,
    steps: int,
    seeds: Iterator[int],
    seed: int,
) -> Parts:
    """Go through the real environment, and lay out the dreams. A part that fails is noted and left out.

    Args:
        world: the world.
        player: plays its source.
        stage: the source itself; None: only what needs no chosen controls is measured.
        judge: None: nothing is measured that needs one.
        sizes: how much.
        moving_with: what objects and lengths of episodes are measured with; None: they are left out.
        steps: denoising passes K.
        seeds: of the episodes that are played.
        seed: of the dreams' chance.
    """
    parts, dream = Parts(), _Dreamer(world, steps, seed)
    if world.networks.place is None and sizes.episodes:
        _prepare_episodes(parts, dream, player, sizes.episodes, seeds, moving_with or Moving())
    elif sizes.endings:
        with parts.failures.of("ends"):
            stretches = outcomes.endings(player, seeds, sizes.endings)
            if stretches:
                parts.jobs.append(Job("ends", partial(outcomes.score_outcomes, world, stretches)))
    if stage is None:
        return parts
    found: list[Moment] = []
    with parts.failures.of("moments"):
        found = moments(player, seeds, max(sizes.moments, 2 * sizes.walks), _CONTEXT, 0)
    if judge is not None and sizes.moments and found:
        with parts.failures.of("keys"):
            parts.real["keys"], able = keys.real_pulls(stage, judge, found[: sizes.moments])
            parts.jobs += [
                Job("keys", partial(dream.keys, judge, some, i)) for i, some in _split(able, 2)
            ]
    if sizes.loops and loops.can_loop(stage):
        for seconds in sizes.seconds:
            with parts.failures.of(f"loop{seconds}"):
                _prepare_loops(parts, dream, player, stage, sizes.loops, seconds, seeds)
    if sizes.walks and found:
        walker = replace(dream, steps=sizes.walk_steps or steps)
        with parts.failures.of("play"):
            _prepare_walks(parts, walker, stage, judge, sizes, found[: 2 * sizes.walks])
    return parts


def _prepare_episodes(
    parts: Parts, dream: _Dreamer, player: Player, count: int, seeds: Iterator[int], using: Moving
) -> None:
    """Ends, objects and lengths, of the same episodes."""
    with parts.failures.of("ends"):
        played = moving.play(player, seeds, count, using)
        parts.jobs += [
            Job("ends", partial(outcomes.score_outcomes, dream.world, some))
            for _, some in _split(played.endings, 2 * _BATCH)
        ]
        with parts.failures.of("objects"):
            detector = moving.check_objects(using.detector, played)
            parts.kinds = detector.kinds
            parts.jobs += [
                Job("objects", partial(dream.objects, detector, some, i))
                for i, some in _split(played.stretches, 2 * _BATCH)
            ]
        with parts.failures.of("lengths"):
            episode_lengths.check_lengths(played.beginnings, played.ended, count)
            parts.jobs += [
                Job("lengths", partial(dream.lengths, some, i))
                for i, some in _split(played.beginnings, 4 * _BATCH)
            ]


def _prepare_loops(
    parts: Parts,
    dream: _Dreamer,
    player: Player,
    stage: Stage,
    count: int,
    seconds: int,
    seeds: Iterator[int],
) -> None:
    frames = round(seconds * dream.world.spec.fps)
    begun = moments(player, seeds, count, _CONTEXT, frames // 2)
    ways = loops.real_loops(stage, begun, frames)
    parts.jobs += [
        Job(f"loop{seconds}", partial(dream.loops, some, i)) for i, some in _split(ways, _BATCH)
    ]


def _prepare_walks(
    parts: Parts,
    dream: _Dreamer,
    stage: Stage,
    judge: Judge | None,
    sizes: Sizes,
    found: list[Moment],
) -> None:
    space, frames = stage.spec.control_space, sizes.frames
    # No episode goes on for as long as a dream does: the environment's walks are some that it can make.
    parts.real["play"] = drift.real_walks(stage, judge, found, min(frames, _LONGEST), dream.seed)
    if not parts.real["play"]:
        return
    rng = np.random.default_rng([dream.seed, 1])
    play = np.stack([drift.random_play(space, rng, frames) for _ in range(sizes.walks)])
    idle = drift.idle_play(space, min(max(sizes.walks // 2, 2), len(found)), frames)
    kinds = [("play", play), ("idle", idle)]
    if dream.world.networks.place is None:
        del kinds[1]
        parts.failures["idle"] = "things may move by themselves here: nothing comes to rest without a key"
    rest = np.stack([drift.at_rest(stage, moment) for moment in found])
    # The longest of all jobs: first, so that shorter ones fill what one worker has left when another ends.
    parts.jobs[:0] = [
        Job(name, partial(dream.walk, judge, some, (walked[i : i + len(some)], rest[i : i + len(some)]), i))
        for name, walked in kinds
        for i, some in _split(found[: len(walked)], _BATCH // 2)
    ]


@dataclass(frozen=True, slots=True)
class _Dreamer:
    """Runs the dreams of a part."""

    world: World
    steps: int
    seed: int

    def keys(self, judge: Judge, some: list[Moment], first: int) -> Mapping[str, np.ndarray]:
        return {"motion": keys.dreamt_pulls(self.world, judge, some, self.steps, self.seed + first)}

    def loops(self, some: list[loops.Loop], first: int) -> Mapping[str, np.ndarray]:
        return loops.score_loops(self.world, some, self.steps, self.seed + first)

    def objects(self, detector: Detector, some: list[Trajectories], first: int) -> Mapping[str, np.ndarray]:
        return moving.score_stretches(self.world, detector, some, self.steps, self.seed + first)

    def lengths(self, some: list[episode_lengths.Beginning], first: int) -> Mapping[str, np.ndarray]:
        return episode_lengths.imagined_lengths(self.world, some, self.steps, self.seed + first)

    def walk(
        self,
        judge: Judge | None,
        some: list[Moment],
        given: tuple[np.ndarray, np.ndarray],
        first: int,
    ) -> Mapping[str, np.ndarray]:
        """``given``: controls, and what is seen at rest."""
        seed = self.seed + first
        return drift.long_walk(self.world, judge, some, *given, steps=self.steps, seed=seed)


def _split(items: list[_T], size: int) -> list[tuple[int, list[_T]]]:
    """Parts of at most ``size``, each with the number of its first item."""
    return [(i, items[i : i + size]) for i in range(0, len(items), size)]
