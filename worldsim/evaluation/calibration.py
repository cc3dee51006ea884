"""Calibration: ``Step.uncertainty`` and ``Step.surprise`` against the error that they should predict.

Shapes: N trajectories, F frames.
"""

from __future__ import annotations

import numpy as np

from worldsim.evaluation.metric import Metric, metric, pooled

__all__ = ["AHEAD", "auroc", "calibration_metrics", "surprise_metrics"]

AHEAD = 16
"""Frames within which an error is to be predicted."""


def calibration_metrics(uncertainty: np.ndarray, psnr: np.ndarray, threshold: float) -> dict[str, Metric]:
    """Return ``uncertainty_auroc`` and ``uncertainty_spearman`` of the signal and of PSNR, both [N, F].

    Empty where the error never passes the threshold, or always does.
    """
    frames = psnr.shape[1] - AHEAD
    if frames < 1:
        return {}
    lost = np.stack([(psnr[:, t : t + AHEAD + 1] < threshold).any(1) for t in range(frames)], 1)
    if lost.all() or not lost.any():
        return {}
    signal, error = uncertainty[:, :frames], -psnr[:, :frames]
    auroc_value = pooled(lambda rows: auroc(signal[rows], lost[rows]), len(uncertainty))
    spearman = pooled(lambda rows: _spearman(signal[rows], error[rows]), len(uncertainty))
    return {
        "uncertainty_auroc": metric(
            auroc_value,
            f"Step.uncertainty as a warning of less than {threshold:.1f} dB (midway between the "
            f"references of rollout64_psnr) within {AHEAD} frames, keys alone; lower: chance",
            unit="AUROC",
            lower_reference=0.5,
            upper_reference=1.0,
        ),
        "uncertainty_spearman": metric(
            spearman,
            "rank correlation of Step.uncertainty and the frame's error in dB, keys alone; lower: chance",
            unit="rank r",
            lower_reference=0.0,
            upper_reference=1.0,
        ),
    }


def surprise_metrics(surprise: np.ndarray, gain: np.ndarray) -> dict[str, Metric]:
    """Return ``surprise_auroc`` of the surprise in bits and of the gain in dB over copy-last, both [N, F].

    Frames without a gain (NaN) are left out; empty where all others are worse than copy-last, or none is.
    """
    counts, worse = np.isfinite(gain), gain < 0
    if not worse[counts].any() or worse[counts].all():
        return {}

    def of(rows: np.ndarray) -> float:
        return auroc(surprise[rows][counts[rows]], worse[rows][counts[rows]])

    return {
        "surprise_auroc": metric(
            pooled(of, len(gain)),
            "Step.surprise as a sign that the imagined frame is worse than the true frame before it, on the "
            "pixels that changed since, keys alone; lower: chance",
            unit="AUROC",
            lower_reference=0.5,
            upper_reference=1.0,
        )
    }


def auroc(signal: np.ndarray, is_so: np.ndarray) -> float:
    """Return the AUROC of a signal; ties count half. NaN where there is one class only."""
    ranks, yes = _ranks(signal.ravel()), is_so.ravel().astype(bool)
    n, m = int(yes.sum()), int((~yes).sum())
    return float((ranks[yes].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(np.corrcoef(_ranks(a.ravel()), _ranks(b.ravel()))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1; equal values share their mean rank."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2)[where]
    return ranks
