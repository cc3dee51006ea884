"""Scores and metrics of a baseline on the same trajectories as a world's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.drift import frechet
from worldsim.evaluation.idm.model import InverseDynamicsModel, resize_for_idm
from worldsim.evaluation.image_metrics import psnr
from worldsim.evaluation.metric import Metric, estimate, metric, pooled
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["baseline_metrics", "score_baseline"]

_HORIZONS = (16, 64)


def score_baseline(
    baseline: Baseline, true: Trajectories, idm: InverseDynamicsModel | None, context: int, frames: int
) -> dict[str, np.ndarray]:
    """``<name>.psnr`` [N, F] under the true controls and, with an IDM, ``<name>.features`` [N, F, D]."""
    then = slice(0, context + frames)
    shown = baseline.rollout(true.frames, true.controls[:, then], context)
    scores = {f"{baseline.name}.psnr": psnr(shown, true.frames[:, context : context + frames])}
    if idm is not None:
        scores[f"{baseline.name}.features"] = idm.features(resize_for_idm(shown))
    return scores


def baseline_metrics(name: str, scores: Mapping[str, np.ndarray]) -> dict[str, Metric]:
    """Return ``<name>_rollout16_psnr``, ``_rollout64_psnr`` and ``_frechet``, and the world's gains."""
    theirs, ours = scores[f"{name}.psnr"], scores["true.psnr"]
    metrics = {}
    for horizon in (horizon for horizon in _HORIZONS if horizon <= theirs.shape[1]):
        static = estimate(scores["static.psnr"][:, :horizon].mean(1)).value
        mean = theirs[:, :horizon].mean(1)
        metrics[f"{name}_rollout{horizon}_psnr"] = metric(
            estimate(mean),
            f"{name} under the true keys and yaw, mean of frames 1..{horizon}; "
            f"lower: the last given frame for ever; upper: rollout{horizon}_psnr",
            lower_reference=static,
            upper_reference=estimate(ours[:, :horizon].mean(1)).value,
        )
        metrics[f"rollout{horizon}_psnr_gain_over_{name}"] = metric(
            estimate(ours[:, :horizon].mean(1) - mean),
            f"rollout{horizon}_psnr - {name}_rollout{horizon}_psnr",
            lower_reference=0.0,
        )
    if f"{name}.features" in scores:
        rollout, real = scores[f"{name}.features"], scores["real.features"][:, 1:]
        flat = lambda features: features.reshape(-1, features.shape[-1])  # noqa: E731
        metrics[f"{name}_frechet"] = metric(
            pooled(lambda rows: frechet(flat(rollout[rows]), flat(real[rows])), len(real)),
            f"frechet of {name}; upper: frechet",
            unit="",
            upper_reference=frechet(flat(scores["true.features"][:, 1:]), flat(real)),
        )
    return metrics
