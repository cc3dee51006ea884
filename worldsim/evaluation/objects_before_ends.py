"""Objects in the frames before an episode's end, imagined over real: are ends imagined with their causes?

A world may end as many episodes as the source does, and yet at random. Where fireballs end an episode, they
must be seen before it does.

Shapes: N episodes, K kinds of objects, H x W frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from worldsim.evaluation.detector import Detector
from worldsim.evaluation.metric import Metric, metric, pooled

__all__ = ["FRAMES_BEFORE_END", "EndWatch", "metrics_before_ends", "real_pixels"]

FRAMES_BEFORE_END = 10
"""Frames up to an end, the last one included, in which causes are looked for."""


class EndWatch:
    """Counts objects in the newest frames of N imagined episodes.

    Args:
        detector: finds the objects.
        count: N.
    """

    def __init__(self, detector: Detector, count: int) -> None:
        self._detector = detector
        self._recent = np.zeros((FRAMES_BEFORE_END, count, len(detector.kinds)))
        self._seen = 0
        self.pixels = np.full((count, len(detector.kinds)), np.nan)
        """Most pixels of each kind in a frame before the end, float64 [N, K]; NaN without an end."""

    def see(self, episodes: np.ndarray, frames: np.ndarray) -> None:
        """Take in the next frame of some episodes, int64 [n], uint8 [n, H, W, 3]."""
        self._recent[self._seen % FRAMES_BEFORE_END, episodes] = _count(self._detector, frames)
        self._seen += 1

    def end(self, episodes: np.ndarray) -> None:
        """Keep what was seen before the ends of ``episodes``, int64 [n]."""
        self.pixels[episodes] = self._recent[:, episodes].max(0)


def real_pixels(detector: Detector, last: Sequence[np.ndarray | None]) -> np.ndarray:
    """As ``EndWatch.pixels``, of the last frames uint8 [10, H, W, 3] of real episodes; None: no end."""
    nothing = np.full(len(detector.kinds), np.nan)
    return np.stack([nothing if one is None else _count(detector, one).max(0) for one in last])


def metrics_before_ends(scores: Mapping[str, np.ndarray], kinds: Sequence[str]) -> dict[str, Metric]:
    """A ratio for each kind: mean of the most pixels before imagined ends over that before real ends.

    Kinds are left out where nothing ended, or none of them is seen before a real end.
    """
    imagined, real = scores["imagined_before_end"], scores["real_before_end"]
    metrics = {}
    for k, kind in enumerate(kinds):
        now, then = _mean(imagined[:, k]), _mean(real[:, k])
        if not (np.isfinite(now) and then > 0):
            continue
        metrics[f"{kind}_pixels_before_end_ratio"] = metric(
            pooled(partial(_ratio, imagined[:, k], real[:, k]), len(real)),
            f"most pixels of a {kind} in one of the {FRAMES_BEFORE_END} frames up to an end, the mean of "
            f"imagined ends over that of real ones: {now:.1f} over {then:.1f}",
            unit="ratio",
            lower_reference=0.0,
            upper_reference=1.0,
        )
    return metrics


def _ratio(imagined: np.ndarray, real: np.ndarray, rows: np.ndarray) -> float:
    mean = _mean(real[rows])
    return _mean(imagined[rows]) / mean if mean > 0 else float("nan")


def _count(detector: Detector, frames: np.ndarray) -> np.ndarray:
    """Pixels of each kind, int64 [n, K], in frames uint8 [n, H, W, 3]."""
    return detector.find(frames).sum((-1, -2))


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
