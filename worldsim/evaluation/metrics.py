"""Metrics of the scores of rollouts, each with its lower and upper reference.

Every mean is a mean of frames' PSNR in dB, not the PSNR of a mean error. ``rollout16_psnr``,
``rollout64_psnr`` and ``rollout256_psnr`` are means over *all* imagined frames 1 to 16, 64 or 256.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldsim.evaluation.calibration import calibration_metrics, surprise_metrics
from worldsim.evaluation.controllability import controllability_metrics
from worldsim.evaluation.drift import frechet
from worldsim.evaluation.image_metrics import MAX_PSNR
from worldsim.evaluation.metric import Estimate, Metric, estimate, metric, pooled

__all__ = ["HORIZONS", "Scores", "compute_metrics"]

Scores = Mapping[str, np.ndarray]
"""Per trajectory, ``[N, ...]``; see ``score_batch`` and ``score_long``."""

HORIZONS = (16, 64, 256)
"""Frames of the rollouts that are reported on."""

_NEXT = "next frame imagined from the true past"
_BETWEEN = "lower: copy_psnr; upper: tokenizer_psnr"


def compute_metrics(scores: Scores, denoising_steps: int, fps: float) -> dict[str, Metric]:
    """All metrics, by name, in the order of the report; ``denoising_steps`` is the K of those that name none.

    Horizons that no rollout reached are left out; poses and the static scene, where the world has none.
    """
    metrics = _next(scores, denoising_steps)
    if "scene" not in scores:
        metrics |= _changed(scores, denoising_steps)
    for horizon in HORIZONS:
        if horizon <= scores["true.psnr"].shape[1]:
            metrics |= _rollouts(scores, horizon)
            metrics |= _poses(scores, horizon) if "true.metres" in scores else {}
    if "draw1.psnr" in scores and scores["true.psnr"].shape[1] >= HORIZONS[0]:
        metrics |= _best_draw(scores)
    for horizon in HORIZONS[1:]:
        if horizon <= scores["true.psnr"].shape[1]:
            metrics |= _appearance(scores, horizon)
    if "long.psnr" in scores:
        metrics |= _long(scores)
    metrics |= _by_denoising_steps(scores, denoising_steps)
    metrics |= _bits(scores)
    if "held" in scores:
        metrics |= controllability_metrics(scores, fps)
        metrics |= _frechet(scores)
    if "true.uncertainty" in scores and HORIZONS[1] <= scores["true.psnr"].shape[1]:
        lower = scores["static.psnr"][:, : HORIZONS[1]].mean()
        threshold = float(lower + scores["tokenizer"].mean()) / 2
        metrics |= calibration_metrics(scores["true.uncertainty"], scores["true.psnr"], threshold)
    return metrics


def _next(scores: Scores, denoising_steps: int) -> dict[str, Metric]:
    copy, best, unrelated = (estimate(scores[name]) for name in ("copy", "tokenizer", "unrelated"))
    gain = estimate(scores[f"next_k{denoising_steps}"] - scores["copy"])

    def between(name: str, about: str) -> Metric:
        return metric(
            estimate(scores[name]),
            f"{about}; {_BETWEEN}",
            lower_reference=copy.value,
            upper_reference=best.value,
        )

    metrics = {
        "tokenizer_psnr": metric(
            best,
            "true frame encoded and decoded, with true past and pose; lower: copy_psnr",
            lower_reference=copy.value,
        ),
        "next_psnr": between(f"next_k{denoising_steps}", f"{_NEXT}, keys and yaw"),
        "copy_psnr": metric(
            copy,
            "true last frame again; lower: an unrelated frame",
            lower_reference=unrelated.value,
            upper_reference=best.value,
        ),
        "next_gain": metric(
            gain,
            "next_psnr - copy_psnr; upper: tokenizer_psnr - copy_psnr",
            lower_reference=0.0,
            upper_reference=best.value - copy.value,
        ),
    }
    if "next_pose" in scores:
        metrics["next_psnr_given_pose"] = between("next_pose", f"{_NEXT}, keys, yaw and the true pose")
    if "scene" in scores:
        metrics["scene_psnr"] = between("scene", "what the static scene shows at the true pose")
        metrics["warp_psnr"] = between("warp", "true last frame, moved along with the camera")
    return metrics


def _changed(scores: Scores, denoising_steps: int) -> dict[str, Metric]:
    """The same of the pixels that changed since the true frame before, of all frames together."""
    pixels = scores["changed.pixels"].sum(1)
    if not pixels.sum():
        return {}

    def of(name: str) -> Estimate:
        errors = scores[f"changed.{name}"].sum(1)
        return pooled(lambda rows: _decibels(errors[rows].sum(), pixels[rows].sum()), len(pixels))

    copy, best = of("copy"), of("tokenizer")
    where = "changed by more than 12 grey levels since the true frame before, their errors taken together"
    named = {"tokenizer_psnr": best, "next_psnr": of(f"next_k{denoising_steps}"), "copy_psnr": copy}
    return {
        f"{name}_changed": metric(
            value,
            f"{name} of the pixels that {where}",
            lower_reference=None if value is copy else copy.value,
            upper_reference=None if value is best else best.value,
        )
        for name, value in named.items()
    }


def _bits(scores: Scores) -> dict[str, Metric]:
    """Metrics of worlds of bits; empty for others."""
    metrics: dict[str, Metric] = {}
    if "idempotence" in scores:
        metrics["tokenizer_idempotence"] = metric(
            estimate(scores["idempotence"]),
            "share of the bits of a true frame that are the same once it is decoded and encoded again; "
            "lower: chance",
            unit="share",
            lower_reference=0.5,
            upper_reference=1.0,
        )
    if "surprise" in scores:
        metrics["next_surprise"] = metric(
            estimate(scores["surprise"]),
            "information in the true next frame, given the true past, over its bits; lower: even chances",
            unit="bits/bit",
            lower_reference=1.0,
            upper_reference=0.0,
        )
    if "true.surprise" in scores:
        metrics |= surprise_metrics(scores["true.surprise"], scores["true.gain"])
    return metrics


def _decibels(error: float, pixels: float) -> float:
    """PSNR of a summed squared error; NaN without pixels."""
    return min(-10 * np.log10(max(error / pixels, 1e-10)), MAX_PSNR) if pixels else float("nan")


def _best_draw(scores: Scores) -> dict[str, Metric]:
    """Best of several rollouts, for worlds whose future is sampled."""
    span = slice(HORIZONS[0])
    draws = [scores["true.psnr"], *(scores[name] for name in sorted(scores) if _is_extra_draw(name))]
    mean = np.stack([draw[:, span].mean(1) for draw in draws])
    return {
        f"rollout16_psnr_best_of_{len(draws)}": metric(
            estimate(mean.max(0)),
            f"rollout16_psnr of the best of {len(draws)} draws of each trajectory; lower: of the mean draw; "
            "upper: tokenizer_psnr",
            lower_reference=float(mean.mean()),
            upper_reference=estimate(scores["tokenizer"]).value,
        )
    }


def _is_extra_draw(name: str) -> bool:
    return name.startswith("draw") and name.endswith(".psnr")


def _rollouts(scores: Scores, horizon: int) -> dict[str, Metric]:
    """Rollouts of ``horizon`` frames."""
    score = {
        name: scores[f"{name}.psnr"]
        for name in ("true", "shuffled", "pose", "static")
        if f"{name}.psnr" in scores
    }
    mean = {name: rows[:, :horizon].mean(1) for name, rows in score.items() if rows.shape[1] >= horizon}
    lower, upper = estimate(mean["static"]).value, estimate(scores["tokenizer"]).value
    span = f"mean of frames 1..{horizon}; lower: the last given frame for ever; upper: tokenizer_psnr"

    def imagined(name: str, under: str) -> Metric:
        return metric(
            estimate(mean[name]),
            f"rollout under {under}, {span}",
            lower_reference=lower,
            upper_reference=upper,
        )

    name = f"rollout{horizon}"
    if "shuffled" not in mean:
        return {f"{name}_psnr": imagined("true", "the true keys and yaw")}
    gap, shuffled = estimate(mean["true"] - mean["shuffled"]), estimate(mean["shuffled"])
    metrics = {
        f"{name}_psnr": imagined("true", "the true keys and yaw"),
        f"{name}_psnr_shuffled_actions": imagined("shuffled", "another trajectory's keys and yaw"),
        f"{name}_action_gap": metric(
            gap,
            f"{name}_psnr - {name}_psnr_shuffled_actions; upper: tokenizer_psnr instead of the first",
            lower_reference=0.0,
            upper_reference=upper - shuffled.value,
        ),
    }
    return metrics | (
        {f"{name}_psnr_given_pose": imagined("pose", "true keys, yaw and poses")} if "pose" in mean else {}
    )


def _poses(scores: Scores, horizon: int) -> dict[str, Metric]:
    """Error of the predicted pose after ``horizon`` frames."""
    metrics = {}
    for unit in ("metres", "degrees"):
        static = estimate(scores[f"static.{unit}"][:, horizon - 1])
        metrics[f"pose{horizon}_{unit}"] = metric(
            estimate(scores[f"true.{unit}"][:, horizon - 1]),
            f"predicted pose from the true one after {horizon} frames of keys; lower: standing still",
            unit=unit,
            lower_reference=static.value,
            upper_reference=0.0,
        )
    return metrics


def _appearance(scores: Scores, horizon: int) -> dict[str, Metric]:
    """Sharpness and motion over the source's in the last sixteenth up to ``horizon``, e.g. 240 to 256."""
    window = slice(horizon - horizon // 16 - 1, horizon)
    where = f"of frames {window.start + 1}..{horizon} over the source's"
    real = {name: scores[f"static.{name}"][:, window] for name in ("gradient", "motion", "blur")}
    return {
        f"gradient_ratio{horizon}": metric(
            estimate(scores["true.gradient"][:, window], real["gradient"]),
            f"mean brightness gradient {where}; lower: the mean of all true frames; the source itself: 1",
            unit="ratio",
            lower_reference=estimate(real["blur"], real["gradient"]).value,
            upper_reference=1.0,
        ),
        f"frame_diff_ratio{horizon}": metric(
            estimate(scores["true.motion"][:, window], real["motion"]),
            f"change from frame to frame {where}; lower: a static image; the source itself: 1",
            unit="ratio",
            lower_reference=0.0,
            upper_reference=1.0,
        ),
    }


def _long(scores: Scores) -> dict[str, Metric]:
    """The same as of the shorter rollouts, of trajectories of their own."""
    as_usual = {
        name.removeprefix("long"): values for name, values in scores.items() if name.startswith("long")
    }
    renamed = {("true" + name if name.startswith(".") else name): values for name, values in as_usual.items()}
    renamed["tokenizer"] = scores["tokenizer"]
    horizon = renamed["true.psnr"].shape[1]
    metrics = _rollouts(renamed, horizon) | _appearance(renamed, horizon)
    return metrics | (_poses(renamed, horizon) if "true.metres" in renamed else {})


def _frechet(scores: Scores) -> dict[str, Metric]:
    """Imagined against true frames, as sets."""
    rollout, real = scores["true.features"][:, 1:], scores["real.features"]
    of = lambda frames, rows: frechet(_rows(frames[rows]), _rows(real[rows, 1:]))  # noqa: E731
    count = real.shape[1] - 1
    half = len(real) // 2
    return {
        "frechet": metric(
            pooled(lambda rows: of(rollout, rows), len(real)),
            f"Frechet distance of the IDM's features (not FVD), imagined frames 1..{count} under the true "
            "keys against the true ones; lower: the last given frame for ever; upper: one half of the true "
            "trajectories against the other, which other places set apart",
            unit="",
            lower_reference=of(np.repeat(real[:, :1], count, 1), np.arange(len(real))),
            upper_reference=frechet(_rows(real[:half, 1:]), _rows(real[half:, 1:])),
        )
    }


def _rows(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])


def _by_denoising_steps(scores: Scores, denoising_steps: int) -> dict[str, Metric]:
    """The same for every K."""
    copy, best = estimate(scores["copy"]).value, estimate(scores["tokenizer"]).value
    static, metrics = estimate(scores["static.psnr"][:, :16]).value, {}
    for k in sorted(int(name[6:]) for name in scores if name.startswith("next_k")):
        rollout = scores["true.psnr" if k == denoising_steps else f"k{k}.psnr"][:, :16]
        metrics[f"next_psnr_k{k}"] = metric(
            estimate(scores[f"next_k{k}"]),
            f"next_psnr at K = {k}",
            lower_reference=copy,
            upper_reference=best,
        )
        if rollout.shape[1] == 16:
            metrics[f"rollout16_psnr_k{k}"] = metric(
                estimate(rollout), f"rollout16_psnr at K = {k}", lower_reference=static, upper_reference=best
            )
    return metrics
