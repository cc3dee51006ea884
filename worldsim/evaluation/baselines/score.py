"""A baseline on the trajectories that a world is held against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.drift import frechet
from worldsim.evaluation.figure import Figure, estimate, figure, pooled
from worldsim.evaluation.judge import Judge, small
from worldsim.evaluation.measures import psnr
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["baseline_figures", "score_baseline"]

_HORIZONS = (16, 64)


def score_baseline(
    baseline: Baseline, true: Trajectories, judge: Judge | None, context: int, frames: int
) -> dict[str, np.ndarray]:
    """``<name>.psnr`` [N, F] under the true controls and, with a judge, ``<name>.features`` [N, F, D]."""
    then = slice(0, context + frames)
    shown = baseline.dream(true.frames, true.controls[:, then], context)
    scores = {f"{baseline.name}.psnr": psnr(shown, true.frames[:, context : context + frames])}
    if judge is not None:
        scores[f"{baseline.name}.features"] = judge.features(small(shown))
    return scores


def baseline_figures(name: str, scores: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """``<name>_open16``, ``<name>_open64`` and ``<name>_frechet``, and by how much the world is better."""
    theirs, ours = scores[f"{name}.psnr"], scores["true.psnr"]
    figures = {}
    for horizon in (horizon for horizon in _HORIZONS if horizon <= theirs.shape[1]):
        still = estimate(scores["still.psnr"][:, :horizon].mean(1)).value
        mean = theirs[:, :horizon].mean(1)
        figures[f"{name}_open{horizon}"] = figure(
            estimate(mean),
            f"{name} under the true keys and look, mean of frames 1..{horizon}; "
            f"floor: the last given frame for ever; ceiling: open{horizon}_true",
            floor=still,
            ceiling=estimate(ours[:, :horizon].mean(1)).value,
        )
        figures[f"over_{name}_{horizon}"] = figure(
            estimate(ours[:, :horizon].mean(1) - mean),
            f"open{horizon}_true - {name}_open{horizon}",
            floor=0.0,
        )
    if f"{name}.features" in scores:
        dream, real = scores[f"{name}.features"], scores["real.features"][:, 1:]
        flat = lambda features: features.reshape(-1, features.shape[-1])  # noqa: E731
        figures[f"{name}_frechet"] = figure(
            pooled(lambda rows: frechet(flat(dream[rows]), flat(real[rows])), len(real)),
            f"frechet of {name}; ceiling: frechet",
            unit="",
            ceiling=frechet(flat(scores["true.features"][:, 1:]), flat(real)),
        )
    return figures
