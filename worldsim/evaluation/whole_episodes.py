"""Whole episodes, played once for the metrics of ends, objects and lengths.

Stretches for objects lie anywhere in an episode: at its beginning there may be few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from worldsim.data.clips import shift
from worldsim.data.collector import Collector
from worldsim.data.episodes import EpisodeArrays
from worldsim.engine.world import World
from worldsim.errors import SourceError
from worldsim.evaluation.detector import Detector
from worldsim.evaluation.episode_lengths import EpisodeStart, Policy, episode_start
from worldsim.evaluation.objects import HORIZONS, OBJECT_FRAMES
from worldsim.evaluation.outcomes import LENGTH, Ending, ending_of
from worldsim.evaluation.rollouts import RolloutConfig, score_objects, score_rollout
from worldsim.evaluation.teacher_forced import TeacherForcing, score_teacher_forced
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["EpisodeTools", "PlayedEpisodes", "check_objects", "play", "score_stretches"]

_CONTEXT = 4
_STRETCH = _CONTEXT + OBJECT_FRAMES
_EXTRA_DRAWS = 3
"""Further samples of each stretch, up to the last horizon."""
_EVERY = 4
"""Stride of true frames that are encoded, decoded and searched for objects."""


@dataclass(frozen=True, slots=True)
class EpisodeTools:
    """Tools for metrics of whole episodes."""

    detector: Detector | None = None
    """None: objects are left out."""
    policy: Policy | None = None
    """The recording behaviour where it plays without seeing; None: lengths of episodes are left out."""


@dataclass(slots=True)
class PlayedEpisodes:
    """Parts of played episodes that metrics need."""

    endings: list[Ending] = field(default_factory=list)
    stretches: list[Trajectories] = field(default_factory=list)
    """Each of one trajectory of 36 frames with labels."""
    beginnings: list[EpisodeStart] = field(default_factory=list)
    ended: int = 0
    """Number of episodes that ended by themselves."""


def play(collector: Collector, seeds: Iterator[int], count: int, using: EpisodeTools) -> PlayedEpisodes:
    """Play the next ``count`` episodes to their ends."""
    played = PlayedEpisodes()
    for _ in range(count):
        episode = collector.play(next(seeds))
        played.ended += bool(episode.terminated[-1])
        if len(episode) >= LENGTH:
            played.endings.append(ending_of(episode))
        if using.detector is not None and episode.labels and len(episode) >= _STRETCH:
            played.stretches.append(_stretch(episode))
        begun = None if using.policy is None else episode_start(episode, using.policy)
        played.beginnings += [] if begun is None else [begun]
    return played


def check_objects(detector: Detector | None, played: PlayedEpisodes) -> Detector:
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
    world: World, detector: Detector, stretches: Sequence[Trajectories], denoising_steps: int, seed: int
) -> dict[str, np.ndarray]:
    """Return pixel counts for ``object_metrics``: of several rollouts, the truth and encoded frames."""
    true = _joined(stretches)
    config = RolloutConfig(
        context=_CONTEXT,
        frames=OBJECT_FRAMES,
        denoising_steps=denoising_steps,
        controls=true.controls,
        detector=detector,
    )
    short = RolloutConfig(
        context=_CONTEXT,
        frames=HORIZONS[-1],
        denoising_steps=denoising_steps,
        controls=true.controls,
        detector=detector,
    )
    forcing = TeacherForcing(
        context=_CONTEXT,
        frames=OBJECT_FRAMES,
        every=_EVERY,
        denoising_steps=(denoising_steps,),
        detector=detector,
    )
    encoded = score_teacher_forced(world, true, forcing, seed)["objects.tokenizer"]
    scores = {
        "true.objects": score_rollout(world, true, config, seed)["objects"],
        "objects.tokenizer": encoded,
    }
    for draw in range(1, _EXTRA_DRAWS + 1):
        imagined = score_rollout(world, true, short, seed + draw * 1_000_000)
        scores[f"draw{draw}.objects"] = imagined["objects"]
    return scores | dict(score_objects(true, detector, _CONTEXT, OBJECT_FRAMES))


def _stretch(episode: EpisodeArrays) -> Trajectories:
    """Return 36 frames from a random position of an episode."""
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
