"""Object metrics: pixels of true objects that rollouts show, and pixels of objects that are not there.

Counts are of pixels at the size that the detector reads; a pixel counts as found where one of the same kind
lies at most one pixel away.

Shapes: N trajectories, F frames, K kinds, S scored frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldsim.evaluation.metric import Estimate, Metric, metric, pooled

__all__ = ["HORIZONS", "LATE", "OBJECT_FRAMES", "count_pixels", "object_metrics"]

HORIZONS = (1, 2, 4, 8, 16)
"""Frames after the last given one at which objects are evaluated."""
LATE = slice(16, 32)
"""Frames 17 to 32, in which the amount of object pixels is compared."""
OBJECT_FRAMES = 32
"""Imagined frames in which objects are evaluated."""

_HIT, _TRUE, _CORRECT, _PREDICTED = range(4)


def count_pixels(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts ``float64 [..., 4]`` of masks ``bool [..., h, w]``.

    Predicted true pixels, all true ones, correct predicted pixels, all predicted ones.
    """
    counts = (truth & _dilated(predicted), truth, predicted & _dilated(truth), predicted)
    return np.stack([mask.sum((-2, -1), dtype=np.float64) for mask in counts], -1)


def object_metrics(scores: Mapping[str, np.ndarray], kinds: tuple[str, ...]) -> dict[str, Metric]:
    """Recall and precision at each horizon and the late amount, of all kinds (their mean) and of each.

    A share is that of each trajectory's pixels, then the mean over trajectories: a ball that fills the view
    counts no more than one that is far. ``scores``: ``true.objects``, ``static.objects``, ``real.objects``
    [N, F, K, 4] and ``draw<i>.objects`` of the imagined frames, the last given frame, the true frames as the
    detector sees them, and further draws; ``objects.tokenizer`` [N, S, K, 4]. Kinds that were never seen are
    left out.
    """
    real = scores["real.objects"]
    seen = [i for i, _ in enumerate(kinds) if real[:, :, i, _TRUE].any()]
    if not seen:
        return {}
    metrics = _encoded(scores, seen)
    for prefix, chosen in (("object", seen), *((kinds[i], [i]) for i in seen if len(seen) > 1)):
        what = "mean over " + ", ".join(kinds[i] for i in chosen) if len(chosen) > 1 else kinds[chosen[0]]
        for horizon in HORIZONS:
            if horizon <= real.shape[1]:
                metrics |= _at(scores, prefix, what, chosen, horizon)
        if real.shape[1] >= LATE.stop:
            late = _late(scores, what, chosen)
            metrics |= {f"{prefix}_pixels_ratio@17_32": late} if np.isfinite(late.value) else {}
    return metrics


def _at(
    scores: Mapping[str, np.ndarray], prefix: str, what: str, chosen: list[int], horizon: int
) -> dict[str, Metric]:
    names = ["true.objects", *(name for name in sorted(scores) if _is_extra_draw(name))]
    draws = np.stack([scores[name][:, horizon - 1][:, chosen] for name in names])  # [D, N, K, 4]
    static, real = (
        scores[f"{key}.objects"][None, :, horizon - 1][:, :, chosen] for key in ("static", "real")
    )
    metrics = {}
    for name, part, whole, text in (
        ("recall", _HIT, _TRUE, "true object pixels that are imagined"),
        ("precision", _CORRECT, _PREDICTED, "imagined object pixels that are true"),
    ):
        share = _shares(draws, part, whole)
        if np.isfinite(share).any():
            metrics[f"{prefix}_{name}@{horizon}"] = metric(
                _estimate(share),
                f"{text} after {horizon} frames, within a pixel ({what}), mean of {len(draws)} draws; lower: "
                "the last given frame; upper: the detector on true frames",
                unit="share",
                lower_reference=_known(_shares(static, part, whole)),
                upper_reference=_known(_shares(real, part, whole)),
            )
    recall = f"{prefix}_recall@{horizon}"
    if prefix == "object" and recall in metrics and len(draws) > 1:
        best = np.fmax.reduce(_shares(draws, _HIT, _TRUE), axis=0)[None]
        metrics[f"object_recall_best@{horizon}"] = metric(
            _estimate(best),
            f"{recall} of the best of {len(draws)} draws for each trajectory and kind ({what}); lower: "
            "of the mean draw",
            unit="share",
            lower_reference=metrics[recall].value,
            upper_reference=metrics[recall].upper_reference,
        )
    return metrics


def _late(scores: Mapping[str, np.ndarray], what: str, chosen: list[int]) -> Metric:
    late = {key: scores[f"{key}.objects"][:, LATE][:, :, chosen] for key in ("true", "real")}
    predicted, real = late["true"][..., _PREDICTED].sum(1), late["real"][..., _PREDICTED].sum(1)

    def ratio(rows: np.ndarray) -> float:
        above, below = predicted[rows].sum(0), real[rows].sum(0)
        there = below > 0
        return float((above[there] / below[there]).mean()) if there.any() else float("nan")

    return metric(
        pooled(ratio, len(predicted)),
        f"object pixels in imagined frames 17 to 32 over those that the detector finds in the true ones "
        f"({what}), large objects count more; none: 0; the source itself: 1",
        unit="ratio",
        lower_reference=0.0,
        upper_reference=1.0,
    )


def _encoded(scores: Mapping[str, np.ndarray], seen: list[int]) -> dict[str, Metric]:
    """The same of true frames that were encoded and decoded."""
    if "objects.tokenizer" not in scores:
        return {}
    counts = np.moveaxis(scores["objects.tokenizer"][:, :, seen], 1, 0)  # [S, N, K, 4]
    shares = {"recall": _shares(counts, _HIT, _TRUE), "precision": _shares(counts, _CORRECT, _PREDICTED)}
    return {
        f"tokenizer_object_{name}": metric(
            _estimate(share), f"object_{name} of true frames, encoded and decoded", unit="share"
        )
        for name, share in shares.items()
        if np.isfinite(share).any()
    }


def _shares(counts: np.ndarray, part: int, whole: int) -> np.ndarray:
    """Shares ``float64 [D, N, K]`` of one count in another, of counts [D, N, K, 4]; NaN of nothing."""
    return np.where(counts[..., whole] > 0, counts[..., part] / np.maximum(counts[..., whole], 1), np.nan)


def _mean(shares: np.ndarray) -> float:
    """Mean over draws and trajectories, then over the kinds that there are; NaN where there is none."""
    kinds = [row[np.isfinite(row)] for row in np.moveaxis(shares, -1, 0)]
    means = [row.mean() for row in kinds if len(row)]
    return float(np.mean(means)) if means else float("nan")


def _estimate(shares: np.ndarray) -> Estimate:
    return pooled(lambda rows: _mean(shares[:, rows]), shares.shape[1])


def _known(shares: np.ndarray) -> float | None:
    return _mean(shares) if np.isfinite(shares).any() else None


def _is_extra_draw(name: str) -> bool:
    return name.startswith("draw") and name.endswith(".objects")


def _dilated(masks: np.ndarray) -> np.ndarray:
    """Dilate masks by one pixel."""
    padded = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(1, 1), (1, 1)])
    height, width = masks.shape[-2:]
    grown = np.zeros_like(masks)
    for row in range(3):
        for column in range(3):
            grown |= padded[..., row : row + height, column : column + width]
    return grown
