"""Worlds in which things move: whole episodes are played once, for ends, objects and lengths.

Stretches for objects lie anywhere in an episode: at its beginning there may be few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from worldsim.data.clips import shift
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.recorder import Player
from worldsim.engine.world import World
from worldsim.errors import SourceError
from worldsim.evaluation.detector import Detector
from worldsim.evaluation.episode_lengths import Beginning, Policy, beginning_of
from worldsim.evaluation.objects import HORIZONS, OBJECT_FRAMES
from worldsim.evaluation.open_loop import Walk, score_dream, score_objects
from worldsim.evaluation.outcomes import LENGTH, Ending, ending_of
from worldsim.evaluation.teacher import Plan, teacher_forced
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["Moving", "Played", "check_objects", "play", "score_stretches"]

_CONTEXT = 4
_STRETCH = _CONTEXT + OBJECT_FRAMES
_AGAIN = 3
"""Further draws of each stretch, up to the last horizon."""
_EVERY = 4
"""One true frame in so many is encoded and decoded, and objects looked for in it."""


@dataclass(frozen=True, slots=True)
class Moving:
    """What such worlds are measured with."""

    detector: Detector | None = None
    """None: objects are left out."""
    policy: Policy | None = None
    """The recording behaviour where it plays without seeing; None: lengths of episodes are left out."""


@dataclass(slots=True)
class Played:
    """Of each episode what is needed."""

    endings: list[Ending] = field(default_factory=list)
    stretches: list[Trajectories] = field(default_factory=list)
    """Each of one trajectory of 36 frames with labels."""
    beginnings: list[Beginning] = field(default_factory=list)
    ended: int = 0
    """Episodes that ended by themselves."""


def play(player: Player, seeds: Iterator[int], count: int, using: Moving) -> Played:
    """Play the next ``count`` episodes to their ends."""
    played = Played()
    for _ in range(count):
        episode = player.play(next(seeds))
        played.ended += bool(episode.terminated[-1])
        if len(episode) >= LENGTH:
            played.endings.append(ending_of(episode))
        if using.detector is not None and episode.labels and len(episode) >= _STRETCH:
            played.stretches.append(_stretch(episode))
        begun = None if using.policy is None else beginning_of(episode, using.policy)
        played.beginnings += [] if begun is None else [begun]
    return played


def check_objects(detector: Detector | None, played: Played) -> Detector:
    """Make sure that objects can be looked for.

    Raises:
        SourceError: the source does not tell where they are, or all episodes are too short.
    """
    if detector is None:
        raise SourceError("a source must tell where objects are seen, for these to be looked for", None)
    if not played.stretches:
        raise SourceError(f"episodes must have {_STRETCH} frames for objects to be looked for", None)
    return detector


def score_stretches(
    world: World, detector: Detector, stretches: Sequence[Trajectories], steps: int, seed: int
) -> dict[str, np.ndarray]:
    """Counts of pixels of ``object_figures``: of dreams in several draws, of the truth, of encoded frames."""
    true = _joined(stretches)
    walk = Walk(
        context=_CONTEXT, frames=OBJECT_FRAMES, steps=steps, controls=true.controls, detector=detector
    )
    short = Walk(
        context=_CONTEXT, frames=HORIZONS[-1], steps=steps, controls=true.controls, detector=detector
    )
    plan = Plan(
        context=_CONTEXT, frames=OBJECT_FRAMES, every=_EVERY, steps=(steps,), detector=detector
    )
    encoded = teacher_forced(world, true, plan, seed)["objects.tokenizer"]
    scores = {"true.objects": score_dream(world, true, walk, seed)["objects"], "objects.tokenizer": encoded}
    for draw in range(1, _AGAIN + 1):
        dreamt = score_dream(world, true, short, seed + draw * 1_000_000)
        scores[f"again{draw}.objects"] = dreamt["objects"]
    return scores | dict(score_objects(true, detector, _CONTEXT, OBJECT_FRAMES))


def _stretch(episode: EpisodeArrays) -> Trajectories:
    """36 frames from anywhere in an episode."""
    first = int(np.random.default_rng(episode.seed).integers(len(episode) - _STRETCH + 1))
    span = slice(first, first + _STRETCH)
    led = shift(episode.controls, episode.rewards, episode.terminated).controls
    labels = {kind: masks[None, span].copy() for kind, masks in (episode.labels or {}).items()}
    poses = None if episode.poses is None else episode.poses[None, span]
    return Trajectories(episode.frames[None, span].copy(), led[None, span], poses, (episode.seed,), labels)


def _joined(stretches: Sequence[Trajectories]) -> Trajectories:
    poses = [one.poses for one in stretches if one.poses is not None]
    kinds = stretches[0].labels or {}
    return Trajectories(
        np.concatenate([one.frames for one in stretches]),
        np.concatenate([one.controls for one in stretches]),
        np.concatenate(poses) if poses else None,
        tuple(seed for one in stretches for seed in one.seeds),
        {kind: np.concatenate([(one.labels or {})[kind] for one in stretches]) for kind in kinds},
    )
