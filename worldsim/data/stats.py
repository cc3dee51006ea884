"""Statistics of episodes and of datasets: minimum, maximum, mean, deviation and count of every feature."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Stats", "combine", "of_frames", "of_values"]

Stats = dict[str, list[Any]]
"""Statistics of a feature: "min", "max", "mean" and "std" in its shape, and "count"."""

_SAMPLED_FRAMES = 64


def of_values(values: np.ndarray) -> Stats:
    """Return the statistics of ``[T]`` or ``[T, n]`` numbers."""
    return _reduce(values.astype(np.float64), (0,))


def of_frames(frames: np.ndarray) -> Stats:
    """Return statistics of frames by channel, in [0, 1], of a sample; shaped [3, 1, 1] like LeRobot's."""
    sample = frames[:: max(1, len(frames) // _SAMPLED_FRAMES)] / 255
    stats = _reduce(sample, (0, 1, 2))
    return {name: v if name == "count" else [[[x]] for x in v] for name, v in stats.items()}


def combine(parts: list[Stats]) -> Stats:
    """The statistics of the union of disjoint parts."""
    minimum, maximum, mean, std = (
        np.array([part[k] for part in parts]) for k in ("min", "max", "mean", "std")
    )
    count = np.array([part["count"][0] for part in parts], dtype=np.float64)
    weight = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
    total_mean = (weight * mean).sum(0)
    variance = (weight * (std**2 + (mean - total_mean) ** 2)).sum(0)
    return {
        "min": minimum.min(0).tolist(),
        "max": maximum.max(0).tolist(),
        "mean": total_mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(count.sum())],
    }


def _reduce(values: np.ndarray, axes: tuple[int, ...]) -> Stats:
    found = {
        "min": values.min(axis=axes),
        "max": values.max(axis=axes),
        "mean": values.mean(axis=axes),
        "std": values.std(axis=axes),
    }
    stats: Stats = {name: np.atleast_1d(value).tolist() for name, value in found.items()}
    return {**stats, "count": [len(values)]}
