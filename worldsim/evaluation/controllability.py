"""Controllability: keys and motion of rollouts, as the inverse dynamics model predicts them.

Shapes: N trajectories, F frames, M keys.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldsim.evaluation.metric import Metric, estimate, metric, pooled

__all__ = ["MIN_DISTANCE", "controllability_metrics", "per_second"]

MIN_DISTANCE = 0.5
"""Minimum distance of a second, in metres, for a relative translation error."""


def controllability_metrics(scores: Mapping[str, np.ndarray], fps: float) -> dict[str, Metric]:
    """Return ``key_accuracy`` and, for worlds with poses, ``rot_deg_s`` and ``trans_pct_s``.

    ``scores`` holds, for the rollouts ``true`` and ``pose`` and for the ``real`` frames of the same times,
    ``<rollout>.keys`` bool [N, F, M] and ``<rollout>.moved`` [N, F, 3], predicted by the IDM; ``held`` bool
    [N, F, M] and ``moved`` [N, F, 3] are the truth.
    """
    held = scores["held"]
    real = pooled(lambda rows: _balanced(held[rows], scores["real.keys"][rows]), len(held))
    metrics = {
        "key_accuracy": metric(
            pooled(lambda rows: _balanced(held[rows], scores["true.keys"][rows]), len(held)),
            "keys predicted from the frames of a rollout, balanced accuracy over keys; lower: guessing; "
            "upper: predicted from the source's frames",
            unit="share",
            lower_reference=0.5,
            upper_reference=real.value,
        )
    }
    if "pose.moved" in scores:
        metrics |= _metric(scores, max(round(fps), 1))
    return metrics


def _metric(scores: Mapping[str, np.ndarray], second: int) -> dict[str, Metric]:
    """Return errors of the motion in one second of rollouts with keys and poses given."""
    if scores["moved"].shape[1] < second:
        return {}
    true = per_second(scores["moved"], second)
    rollout, real = (per_second(scores[f"{name}.moved"], second) for name in ("pose", "real"))
    turned = [np.degrees(np.abs(_wrapped(seen[..., 2] - true[..., 2]))) for seen in (rollout, real)]
    way = np.linalg.norm(true[..., :2], axis=-1)
    is_way = way > MIN_DISTANCE
    off = [100 * np.linalg.norm((seen - true)[..., :2], axis=-1) * is_way for seen in (rollout, real)]
    keys = "keys and poses given, predicted by the IDM; lower: standing still; upper: the IDM on the"
    metrics = {
        "rot_deg_s": metric(
            estimate(turned[0]),
            f"rotation error after a second, {keys} source's frames",
            unit="degrees/s",
            lower_reference=float(np.degrees(np.abs(true[..., 2])).mean()),
            upper_reference=float(turned[1].mean()),
        )
    }
    if is_way.any():
        metrics["trans_pct_s"] = metric(
            estimate(off[0], way * is_way),
            f"translation error after a second, {keys} source's frames",
            unit="%",
            lower_reference=100.0,
            upper_reference=estimate(off[1], way * is_way).value,
        )
    return metrics


def per_second(moved: np.ndarray, second: int) -> np.ndarray:
    """Return ``[N, S, 3]``: motions [N, F, 3] composed over each whole second."""
    count = moved.shape[1] // second
    steps = moved[:, : count * second].reshape(len(moved), count, second, 3)
    whole = np.zeros((len(moved), count, 3))
    for t in range(second):
        forward, right, turn = np.moveaxis(steps[:, :, t], -1, 0)
        yaw = whole[..., 2]
        whole[..., 0] += np.cos(yaw) * forward - np.sin(yaw) * right
        whole[..., 1] += np.sin(yaw) * forward + np.cos(yaw) * right
        whole[..., 2] = yaw + turn
    return whole


def _balanced(held: np.ndarray, told: np.ndarray) -> float:
    """Return the balanced accuracy, mean over keys that are held at some time but not always."""
    rates = []
    for key in range(held.shape[-1]):
        down, seen = held[..., key], told[..., key]
        if down.any() and not down.all():
            rates.append((np.mean(seen[down]) + np.mean(~seen[~down])) / 2)
    return float(np.mean(rates)) if rates else 0.5


def _wrapped(angle: np.ndarray) -> np.ndarray:
    wrapped: np.ndarray = (angle + np.pi) % (2 * np.pi) - np.pi
    return wrapped
