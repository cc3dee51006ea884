"""Ground truth: what the real environment shows under known controls, from seeds kept for reporting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from worldsim.context import Context
from worldsim.data.clips import shift
from worldsim.data.collector import Collector
from worldsim.data.episodes import EpisodeArrays
from worldsim.errors import DataError, SourceError

__all__ = [
    "MOST_SKIPPED",
    "REPORTING_SEEDS",
    "RUNS",
    "ShortEpisodesError",
    "Trajectories",
    "check_seeds",
    "collect",
    "collect_longest",
    "reporting_seeds",
]

REPORTING_SEEDS = range(4_000_000_000, 4_200_000_000)
"""Seeds of the episodes that metrics are reported on. Recordings number theirs upwards from multiples of
1,000,003, so that all recordings with a seed below 3,999 stay clear of these; starts come from recordings."""

_PER_RUN = 10_000
RUNS = len(REPORTING_SEEDS) // _PER_RUN
"""Number of reporting runs, each with episodes of its own."""
MOST_SKIPPED = 64
"""Latest frame of an episode at which a stretch begins."""
_TRIES = 8
"""Episodes played per trajectory wanted, at most."""


class ShortEpisodesError(SourceError):
    """Nearly all episodes end before the stretch that is wanted of them.

    Args:
        rule, value, remedy: see :class:`worldsim.errors.WorldsimError`.
        lengths: frames of the episodes that were played.
    """

    def __init__(self, rule: str, value: object, remedy: str, lengths: list[int]) -> None:
        super().__init__(rule, value, remedy)
        self.lengths = lengths

    def reachable(self, least: int) -> int:
        """Frames that every second of these episodes has.

        Raises:
            ShortEpisodesError: these are fewer than ``least``.
        """
        half = int(np.median(self.lengths))
        if half < least:
            rule = f"half of a source's episodes must have {least} frames or more"
            remedy = "measure a source of longer episodes"
            raise ShortEpisodesError(rule, f"{half} frames", remedy, self.lengths)
        return half


@dataclass(frozen=True)
class Trajectories:
    """N stretches of real episodes, T frames each."""

    frames: np.ndarray
    """``uint8 [N, T, H, W, 3]``."""
    controls: np.ndarray
    """``float32 [N, T, M]``: keys and yaw that led into each frame."""
    poses: np.ndarray | None
    """``float64 [N, T, 4, 4]``, camera-to-world in metres, or None."""
    seeds: tuple[int, ...]
    """Seeds of the episodes."""
    labels: Mapping[str, np.ndarray] | None = None
    """Kind of object -> where it is seen, ``bool [N, T, H, W]``; None where it is not known."""

    def __len__(self) -> int:
        """N."""
        return len(self.frames)

    def context(self, i: int, length: int) -> Context:
        """The first ``length`` frames of trajectory ``i``."""
        poses = None if self.poses is None else self.poses[i, :length]
        return Context(self.frames[i, :length], self.controls[i, :length], poses, self.seeds[i])


def reporting_seeds(run: int) -> Iterator[int]:
    """The seeds of reporting run ``run`` (``--seed``), in order; no two runs share one.

    Raises:
        DataError: there is no such run.
    """
    if not 0 <= run < RUNS:
        raise DataError(f"the seed of a report must be in 0..{RUNS - 1}", run)
    return iter(REPORTING_SEEDS[run * _PER_RUN : (run + 1) * _PER_RUN])


def check_seeds(seeds: Iterable[int | None]) -> None:
    """Make sure that none of these seeds, of starts or of training episodes, is one that is reported on.

    Raises:
        DataError: one is.
    """
    taken = [seed for seed in seeds if seed is not None and seed in REPORTING_SEEDS]
    if taken:
        rule = "seeds that a world was made with must not be reported on"
        raise DataError(rule, taken[:3], "record with a seed below 3999")


def collect(collector: Collector, seeds: Iterator[int], count: int, length: int) -> Trajectories:
    """Play until there are ``count`` stretches of ``length`` frames, each of an episode of its own.

    A stretch begins up to 64 frames into its episode, so that not all begin where episodes do. Episodes that
    end too early are passed over.

    Raises:
        ShortEpisodesError: nearly all episodes end too early.
    """
    found: list[tuple[EpisodeArrays, int]] = []
    lengths: list[int] = []
    for _ in range(_TRIES * count):
        episode = collector.play(next(seeds))
        lengths.append(len(episode))
        room = len(episode) - length
        if room >= 0:
            skip = np.random.default_rng(episode.seed).integers(min(room, MOST_SKIPPED) + 1)
            found.append((episode, int(skip)))
        if len(found) == count:
            return _stretches(found, length)
    rule = f"a source must play episodes of at least {length} frames"
    raise ShortEpisodesError(rule, f"{len(found)} of {_TRIES * count}", "choose a shorter --horizon", lengths)


def collect_longest(
    collector: Collector, seeds: Iterator[int], count: int, length: int, least: int
) -> Trajectories:
    """As :func:`collect`; where episodes are short, stretches of as many frames as half of the episodes have.

    Raises:
        ShortEpisodesError: half of the episodes have fewer than ``least`` frames.
    """
    while True:
        try:
            return collect(collector, seeds, count, length)
        except ShortEpisodesError as short:
            length = short.reachable(least)


def _stretches(found: list[tuple[EpisodeArrays, int]], length: int) -> Trajectories:
    frames, controls, poses, labels = [], [], [], []
    for episode, skip in found:
        stretch = slice(skip, skip + length)
        arrivals = shift(episode.controls, episode.rewards, episode.terminated)
        frames.append(episode.frames[stretch])
        controls.append(arrivals.controls[stretch])
        if episode.poses is not None:
            poses.append(episode.poses[stretch])
        if episode.labels is not None:
            labels.append({kind: masks[stretch] for kind, masks in episode.labels.items()})
    seeds = tuple(episode.seed for episode, _ in found)
    known = {kind: np.stack([row[kind] for row in labels]) for kind in (labels or [{}])[0]}
    path = np.stack(poses) if poses else None
    return Trajectories(np.stack(frames), np.stack(controls), path, seeds, known or None)
