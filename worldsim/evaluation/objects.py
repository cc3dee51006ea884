"""Do objects stay? Which pixels of true objects are found again in imagined frames, and which are made up.

Counts are of pixels at the size that the detector reads; a pixel counts as found where one of the same kind
lies at most one pixel away.

Shapes: N trajectories, F frames, K kinds, S scored frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from worldsim.evaluation.figure import Figure, figure, pooled

__all__ = ["HORIZONS", "LATE", "OBJECT_FRAMES", "count_pixels", "object_figures"]

HORIZONS = (1, 2, 4, 8, 16)
"""Frames after the last given one at which objects are looked for."""
LATE = slice(16, 32)
"""Frames 17 to 32, over which the imagined amount is held against the true one."""
OBJECT_FRAMES = 32
"""Imagined frames in which objects are looked for."""

_HIT, _TRUE, _RIGHT, _TOLD = range(4)


def count_pixels(told: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts ``float64 [..., 4]`` of masks ``bool [..., h, w]``.

    True pixels that are told of, all true ones, told pixels that are right, all told ones.
    """
    counts = (truth & _grown(told), truth, told & _grown(truth), told)
    return np.stack([mask.sum((-2, -1), dtype=np.float64) for mask in counts], -1)


def object_figures(scores: Mapping[str, np.ndarray], kinds: tuple[str, ...]) -> dict[str, Figure]:
    """Recall and precision at each horizon and the late amount, of all kinds (their mean) and of each.

    ``scores``: ``true.objects``, ``still.objects``, ``real.objects`` [N, F, K, 4] and ``again<i>.objects`` of
    the imagined frames, the last given frame, the true frames as the detector sees them, and further draws;
    ``objects.tokenizer`` [N, S, K, 4]. Kinds that were never seen are left out.
    """
    real = scores["real.objects"]
    seen = [i for i, _ in enumerate(kinds) if real[:, :, i, _TRUE].any()]
    if not seen:
        return {}
    figures = _encoded(scores, seen)
    for prefix, chosen in (("object", seen), *((kinds[i], [i]) for i in seen if len(seen) > 1)):
        what = "mean over " + ", ".join(kinds[i] for i in chosen) if len(chosen) > 1 else kinds[chosen[0]]
        for horizon in HORIZONS:
            if horizon <= real.shape[1]:
                figures |= _at(scores, prefix, what, chosen, horizon)
        if real.shape[1] >= LATE.stop:
            late = _late(scores, what, chosen)
            figures |= {f"{prefix}_pixels_ratio@17_32": late} if np.isfinite(late.value) else {}
    return figures


def _at(
    scores: Mapping[str, np.ndarray], prefix: str, what: str, chosen: list[int], horizon: int
) -> dict[str, Figure]:
    figures = {}
    for name, part, whole, text in (
        ("recall", _HIT, _TRUE, "true object pixels that are imagined"),
        ("precision", _RIGHT, _TOLD, "imagined object pixels that are true"),
    ):
        share = {
            key: _share(scores[f"{key}.objects"][:, horizon - 1][:, chosen], part, whole)
            for key in ("true", "still", "real")
        }
        count = len(scores["true.objects"])
        everyone = np.arange(count)
        if not np.isfinite(share["true"](everyone)):
            continue  # nothing to be found, or nothing imagined
        figures[f"{prefix}_{name}@{horizon}"] = figure(
            pooled(share["true"], count),
            f"{text} after {horizon} frames, within a pixel ({what}); floor: the last given frame; ceiling: "
            "the detector on true frames",
            unit="share",
            floor=_known(share["still"](everyone)),
            ceiling=_known(share["real"](everyone)),
        )
    if prefix == "object" and figures and "again1.objects" in scores:
        figures[f"object_recall_best@{horizon}"] = _best(scores, what, chosen, horizon)
    return figures


def _best(scores: Mapping[str, np.ndarray], what: str, chosen: list[int], horizon: int) -> Figure:
    """Recall of the best of several draws of each trajectory."""
    draws = [scores["true.objects"], *(scores[name] for name in sorted(scores) if _is_again(name))]
    at = np.stack([draw[:, horizon - 1][:, chosen] for draw in draws])  # [D, N, K, 4]
    recall = (at[..., _HIT] / np.maximum(at[..., _TRUE], 1)).mean(-1)
    best = np.take_along_axis(at, recall.argmax(0)[None, :, None, None], 0)[0]
    real = _share(scores["real.objects"][:, horizon - 1][:, chosen], _HIT, _TRUE)
    return figure(
        pooled(_share(best, _HIT, _TRUE), len(best)),
        f"object_recall@{horizon} of the best of {len(draws)} draws of each trajectory ({what})",
        unit="share",
        ceiling=_known(real(np.arange(len(best)))),
    )


def _late(scores: Mapping[str, np.ndarray], what: str, chosen: list[int]) -> Figure:
    late = {key: scores[f"{key}.objects"][:, LATE][:, :, chosen] for key in ("true", "real")}
    told, real = late["true"][..., _TOLD].sum(1), late["real"][..., _TOLD].sum(1)
    return figure(
        pooled(lambda rows: _mean(told[rows].sum(0), real[rows].sum(0)), len(told)),
        f"object pixels in imagined frames 17 to 32 over those that the detector finds in the true ones "
        f"({what}); none: 0; the engine itself: 1",
        unit="ratio",
        floor=0.0,
        ceiling=1.0,
    )


def _encoded(scores: Mapping[str, np.ndarray], seen: list[int]) -> dict[str, Figure]:
    """The same of true frames that were encoded and decoded."""
    if "objects.tokenizer" not in scores:
        return {}
    counts = scores["objects.tokenizer"][:, :, seen].sum(1)
    return {
        f"tokenizer_object_{name}": figure(
            pooled(_share(counts, part, whole), len(counts)),
            f"object_{name} of true frames, encoded and decoded",
            unit="share",
        )
        for name, part, whole in (("recall", _HIT, _TRUE), ("precision", _RIGHT, _TOLD))
        if counts[..., whole].any()
    }


def _share(counts: np.ndarray, part: int, whole: int) -> Callable[[np.ndarray], float]:
    """Of some rows of counts [N, K, 4] the share of one count in another, the mean over kinds."""
    return lambda rows: _mean(counts[rows][..., part].sum(0), counts[rows][..., whole].sum(0))


def _mean(parts: np.ndarray, wholes: np.ndarray) -> float:
    """Mean ratio over the kinds that there are; NaN where there is none."""
    there = wholes > 0
    return float((parts[there] / wholes[there]).mean()) if there.any() else float("nan")


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _is_again(name: str) -> bool:
    return name.startswith("again") and name.endswith(".objects")


def _grown(masks: np.ndarray) -> np.ndarray:
    """Masks with all pixels next to theirs."""
    padded = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(1, 1), (1, 1)])
    height, width = masks.shape[-2:]
    grown = np.zeros_like(masks)
    for row in range(3):
        for column in range(3):
            grown |= padded[..., row : row + height, column : column + width]
    return grown
