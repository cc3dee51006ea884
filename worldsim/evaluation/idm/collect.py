"""Real frames for the inverse dynamics model, from seeds apart from those of recordings and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from worldsim import camera
from worldsim.data.clips import shift
from worldsim.data.collector import Collector
from worldsim.errors import SourceError
from worldsim.evaluation.idm.network import HEIGHT, WIDTH

__all__ = ["IDM_SEEDS", "LabelledFrames", "collect_frames"]

IDM_SEEDS = range(4_200_000_000, 4_290_000_000)
"""Seeds of the episodes that the model is trained on; the last tenth is held out for its accuracy."""


@dataclass(frozen=True, slots=True)
class LabelledFrames:
    """F real frames, episode after episode."""

    frames: np.ndarray
    """``uint8 [F, 60, 80, 3]``."""
    controls: np.ndarray
    """``float32 [F, M + 1]``: control that led into each frame."""
    tracks: np.ndarray
    """``float64 [F, 3]``: x, y in metres, yaw in radians to the left."""
    lengths: np.ndarray
    """``int64``: lengths of the episodes."""

    def starts(self, length: int) -> np.ndarray:
        """Return all frames, ``int64``, from which a clip of this length lies within one episode."""
        firsts = np.cumsum(self.lengths) - self.lengths
        return np.concatenate(
            [
                first + np.arange(max(total - length + 1, 0))
                for first, total in zip(firsts, self.lengths, strict=True)
            ]
        )

    def clips(self, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return frames, controls and tracks of the clips that begin there, ``[B, length, ...]``."""
        at = starts[:, None] + np.arange(length)
        return self.frames[at], self.controls[at], self.tracks[at]


def collect_frames(
    collector: Collector,
    seeds: Iterator[int],
    count: int,
    on_progress: Callable[[float], None] = lambda share: None,
) -> LabelledFrames:
    """Play ``count`` frames; the last episode is cut there.

    Raises:
        SourceError: the source has no camera poses.
    """
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    controls, tracks, lengths, total = [], [], [], 0
    while total < count:
        episode = collector.play(next(seeds))
        if episode.poses is None:
            raise SourceError("an IDM needs a source with camera poses", collector.spec.name)
        length = min(len(episode), count - total)
        frames[total : total + length] = episode.frames[:length]
        controls.append(shift(episode.controls, episode.rewards, episode.terminated).controls[:length])
        tracks.append(camera.planar(episode.poses)[:length, [0, 1, 3]])
        lengths.append(length)
        total += length
        on_progress(total / count)
    return LabelledFrames(frames, np.concatenate(controls), np.concatenate(tracks), np.array(lengths))
