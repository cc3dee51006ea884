"""From scores to figures: what each is called, and the floor and the ceiling beside it.

Every mean is a mean of frames' PSNR in dB, not the PSNR of a mean error. ``open16``, ``open64`` and
``open256`` are over *all* dreamt frames 1 to 16, 64 or 256, each against the engine's frame of the same
moment, not over the last one alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldsim.evaluation.drift import frechet
from worldsim.evaluation.figure import Estimate, Figure, estimate, figure, pooled
from worldsim.evaluation.foresight import foresight_figures
from worldsim.evaluation.measures import MAX_PSNR
from worldsim.evaluation.obedience import obedience_figures

__all__ = ["HORIZONS", "Scores", "figures_of"]

Scores = Mapping[str, np.ndarray]
"""Per trajectory, ``[N, ...]``; see ``score_batch`` and ``score_long``."""

HORIZONS = (16, 64, 256)
"""Frames of the dreams that are reported on."""

_NEXT = "next frame dreamt from the true past"
_BETWEEN = "floor: copy_psnr; ceiling: tokenizer_psnr"


def figures_of(scores: Scores, steps: int, fps: float) -> dict[str, Figure]:
    """All figures, by name, in the order of the report; ``steps`` is the K of those that name none.

    Horizons that no dream reached are left out, and so are poses and places where the world has none.
    """
    figures = _next(scores, steps)
    if "place" not in scores:
        figures |= _changed(scores, steps)
    for horizon in HORIZONS:
        if horizon <= scores["true.psnr"].shape[1]:
            figures |= _open(scores, horizon)
            figures |= _poses(scores, horizon) if "true.metres" in scores else {}
    if "again1.psnr" in scores and scores["true.psnr"].shape[1] >= HORIZONS[0]:
        figures |= _best_draw(scores)
    for horizon in HORIZONS[1:]:
        if horizon <= scores["true.psnr"].shape[1]:
            figures |= _looks(scores, horizon)
    if "long.psnr" in scores:
        figures |= _long(scores)
    figures |= _passes(scores, steps)
    if "held" in scores:
        figures |= obedience_figures(scores, fps)
        figures |= _frechet(scores)
    if "true.drift" in scores and HORIZONS[1] <= scores["true.psnr"].shape[1]:
        floor = scores["still.psnr"][:, : HORIZONS[1]].mean()
        threshold = float(floor + scores["tokenizer"].mean()) / 2
        figures |= foresight_figures(scores["true.drift"], scores["true.psnr"], threshold)
    return figures


def _next(scores: Scores, steps: int) -> dict[str, Figure]:
    copy, best, unrelated = (estimate(scores[name]) for name in ("copy", "tokenizer", "unrelated"))
    gain = estimate(scores[f"next_k{steps}"] - scores["copy"])

    def between(name: str, about: str) -> Figure:
        return figure(estimate(scores[name]), f"{about}; {_BETWEEN}", floor=copy.value, ceiling=best.value)

    figures = {
        "tokenizer_psnr": figure(
            best,
            "true frame encoded and decoded, with true past and pose; floor: copy_psnr",
            floor=copy.value,
        ),
        "next_psnr": between(f"next_k{steps}", f"{_NEXT}, keys and look"),
        "copy_psnr": figure(
            copy,
            "true last frame again; floor: an unrelated frame",
            floor=unrelated.value,
            ceiling=best.value,
        ),
        "next_gain": figure(
            gain,
            "next_psnr - copy_psnr; ceiling: tokenizer_psnr - copy_psnr",
            floor=0.0,
            ceiling=best.value - copy.value,
        ),
    }
    if "next_pose" in scores:
        figures["next_psnr_pose"] = between("next_pose", f"{_NEXT}, keys, look and the true pose")
    if "place" in scores:
        figures["place_psnr"] = between("place", "what memory of the place shows at the true pose")
        figures["warp_psnr"] = between("warp", "true last frame, moved along with the camera")
    return figures


def _changed(scores: Scores, steps: int) -> dict[str, Figure]:
    """The same of the pixels that changed since the true frame before, of all frames together."""
    pixels = scores["changed.pixels"].sum(1)
    if not pixels.sum():
        return {}

    def of(name: str) -> Estimate:
        errors = scores[f"changed.{name}"].sum(1)
        return pooled(lambda rows: _decibels(errors[rows].sum(), pixels[rows].sum()), len(pixels))

    copy, best = of("copy"), of("tokenizer")
    where = "changed by more than 12 grey levels since the true frame before, their errors taken together"
    named = {"tokenizer_psnr": best, "next_psnr": of(f"next_k{steps}"), "copy_psnr": copy}
    return {
        f"{name}_changed": figure(
            value,
            f"{name} of the pixels that {where}",
            floor=None if value is copy else copy.value,
            ceiling=None if value is best else best.value,
        )
        for name, value in named.items()
    }


def _decibels(error: float, pixels: float) -> float:
    """PSNR of a summed squared error; NaN without pixels."""
    return min(-10 * np.log10(max(error / pixels, 1e-10)), MAX_PSNR) if pixels else float("nan")


def _best_draw(scores: Scores) -> dict[str, Figure]:
    """Where chance decides, one true future is one draw of many: the best of several dreams."""
    span = slice(HORIZONS[0])
    draws = [scores["true.psnr"], *(scores[name] for name in sorted(scores) if _is_again(name))]
    mean = np.stack([draw[:, span].mean(1) for draw in draws])
    return {
        "open16_best": figure(
            estimate(mean.max(0)),
            f"open16_true of the best of {len(draws)} draws of each trajectory; floor: of the mean draw; "
            "ceiling: tokenizer_psnr",
            floor=float(mean.mean()),
            ceiling=estimate(scores["tokenizer"]).value,
        )
    }


def _is_again(name: str) -> bool:
    return name.startswith("again") and name.endswith(".psnr")


def _open(scores: Scores, horizon: int) -> dict[str, Figure]:
    """Dreams of ``horizon`` frames."""
    score = {
        name: scores[f"{name}.psnr"]
        for name in ("true", "shuffled", "pose", "still")
        if f"{name}.psnr" in scores
    }
    mean = {name: rows[:, :horizon].mean(1) for name, rows in score.items() if rows.shape[1] >= horizon}
    floor, ceiling = estimate(mean["still"]).value, estimate(scores["tokenizer"]).value
    span = f"mean of frames 1..{horizon}; floor: the last given frame for ever; ceiling: tokenizer_psnr"

    def dreamt(name: str, under: str) -> Figure:
        return figure(estimate(mean[name]), f"dream under {under}, {span}", floor=floor, ceiling=ceiling)

    name = f"open{horizon}"
    if "shuffled" not in mean:
        return {name: dreamt("true", "the true keys and look")}
    gap, shuffled = estimate(mean["true"] - mean["shuffled"]), estimate(mean["shuffled"])
    figures = {
        f"{name}_true": dreamt("true", "the true keys and look"),
        f"{name}_shuffled": dreamt("shuffled", "another trajectory's keys and look"),
        f"{name}_gap": figure(
            gap,
            f"{name}_true - {name}_shuffled; ceiling: tokenizer_psnr - {name}_shuffled",
            floor=0.0,
            ceiling=ceiling - shuffled.value,
        ),
    }
    return figures | ({f"{name}_pose": dreamt("pose", "true keys, look and poses")} if "pose" in mean else {})


def _poses(scores: Scores, horizon: int) -> dict[str, Figure]:
    """How far off the predicted pose is after ``horizon`` frames."""
    figures = {}
    for unit in ("metres", "degrees"):
        still = estimate(scores[f"still.{unit}"][:, horizon - 1])
        figures[f"pose{horizon}_{unit}"] = figure(
            estimate(scores[f"true.{unit}"][:, horizon - 1]),
            f"predicted pose from the true one after {horizon} frames of keys; floor: standing still",
            unit=unit,
            floor=still.value,
            ceiling=0.0,
        )
    return figures


def _looks(scores: Scores, horizon: int) -> dict[str, Figure]:
    """Sharpness and motion over the engine's in the last sixteenth up to ``horizon``, e.g. 240 to 256."""
    window = slice(horizon - horizon // 16 - 1, horizon)
    where = f"of frames {window.start + 1}..{horizon} over the engine's"
    real = {name: scores[f"still.{name}"][:, window] for name in ("gradient", "motion", "blur")}
    return {
        f"sharp{horizon}": figure(
            estimate(scores["true.gradient"][:, window], real["gradient"]),
            f"mean brightness gradient {where}; floor: the mean of all true frames; the engine itself: 1",
            unit="ratio",
            floor=estimate(real["blur"], real["gradient"]).value,
            ceiling=1.0,
        ),
        f"motion{horizon}": figure(
            estimate(scores["true.motion"][:, window], real["motion"]),
            f"change from frame to frame {where}; floor: a still picture; the engine itself: 1",
            unit="ratio",
            floor=0.0,
            ceiling=1.0,
        ),
    }


def _long(scores: Scores) -> dict[str, Figure]:
    """The same as of the shorter dreams, of trajectories of their own."""
    as_usual = {
        name.removeprefix("long"): values for name, values in scores.items() if name.startswith("long")
    }
    renamed = {("true" + name if name.startswith(".") else name): values for name, values in as_usual.items()}
    renamed["tokenizer"] = scores["tokenizer"]
    horizon = renamed["true.psnr"].shape[1]
    figures = _open(renamed, horizon) | _looks(renamed, horizon)
    figures[f"open{horizon}_true"] = figures.pop(f"open{horizon}")
    return figures | (_poses(renamed, horizon) if "true.metres" in renamed else {})


def _frechet(scores: Scores) -> dict[str, Figure]:
    """Dreamt against true frames, as sets."""
    dream, real = scores["true.features"][:, 1:], scores["real.features"]
    of = lambda frames, rows: frechet(_rows(frames[rows]), _rows(real[rows, 1:]))  # noqa: E731
    count = real.shape[1] - 1
    half = len(real) // 2
    return {
        "frechet": figure(
            pooled(lambda rows: of(dream, rows), len(real)),
            f"Frechet distance of the judge's features (not FVD), dreamt frames 1..{count} under the true "
            "keys against the true ones; floor: the last given frame for ever; ceiling: one half of the true "
            "trajectories against the other, which other places set apart",
            unit="",
            floor=of(np.repeat(real[:, :1], count, 1), np.arange(len(real))),
            ceiling=frechet(_rows(real[:half, 1:]), _rows(real[half:, 1:])),
        )
    }


def _rows(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])


def _passes(scores: Scores, steps: int) -> dict[str, Figure]:
    """The same for every K."""
    copy, best = estimate(scores["copy"]).value, estimate(scores["tokenizer"]).value
    still, figures = estimate(scores["still.psnr"][:, :16]).value, {}
    for k in sorted(int(name[6:]) for name in scores if name.startswith("next_k")):
        dream = scores["true.psnr" if k == steps else f"k{k}.psnr"][:, :16]
        figures[f"next_psnr_k{k}"] = figure(
            estimate(scores[f"next_k{k}"]), f"next_psnr at K = {k}", floor=copy, ceiling=best
        )
        if dream.shape[1] == 16:
            figures[f"open16_k{k}"] = figure(
                estimate(dream), f"open16_true at K = {k}", floor=still, ceiling=best
            )
    return figures
