"""Drift: the first 15 % of a long rollout against its last, relative to how the source itself varies.

A static image does not drift, so sharpness and motion are reported with every metric of drift.

Shapes: N rollouts, F frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldsim.controls import Control, ControlSpace
from worldsim.engine.world import World
from worldsim.evaluation.idm.model import InverseDynamicsModel, resize_for_idm
from worldsim.evaluation.image_metrics import gradient, motion, psnr
from worldsim.evaluation.metric import Metric, estimate, metric, pooled
from worldsim.evaluation.simulator import BranchPoint, Simulator, act

__all__ = [
    "SHARE",
    "drift_metrics",
    "frame_at_rest",
    "frechet",
    "idle_controls",
    "idle_metrics",
    "long_rollout",
    "random_controls",
    "source_rollouts",
    "split_half_distance",
]

SHARE = 0.15
"""Share of a rollout at either end; both ends are compared."""
_RESTING = 40
"""Frames in which all motion dies away."""
_EVERY = 5
"""One frame in so many is read by the IDM."""


def random_controls(space: ControlSpace, rng: np.random.Generator, frames: int) -> np.ndarray:
    """``float32 [F, M]``: random discrete actions, each held for 2 to 15 frames.

    Without keys these are random continuous actions, where there are any.
    """
    rows: list[np.ndarray] = []
    while len(rows) < frames:
        control = space.from_discrete(int(rng.integers(len(space.discrete_actions))))
        if space.action is not None and not space.keys:
            control = Control(action=space.action.sample(rng))
        rows += [space.vector(control)] * int(rng.integers(2, 16))
    return np.stack(rows[:frames])


def idle_controls(space: ControlSpace, rollouts: int, frames: int) -> np.ndarray:
    """``float32 [N, F, M]``: no key at all."""
    return np.tile(space.vector(Control()), (rollouts, frames, 1))


def long_rollout(
    world: World,
    idm: InverseDynamicsModel | None,
    branch_points: list[BranchPoint],
    controls: np.ndarray,
    rest: np.ndarray,
    *,
    denoising_steps: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Continue from every branch_point under ``controls`` [N, F, M], in one batch.

    ``gradient`` and ``motion`` of each frame [N, F]; ``kept`` [N, F]: dB against ``rest`` uint8 [N, H, W, 3],
    what the source shows at rest; with an IDM ``features`` [N, F / 5, D] of one frame
    in five.
    """
    engine, space = (
        world.engine(slots=len(branch_points), denoising_steps=denoising_steps, rewind_frames=0),
        world.spec.control_space,
    )
    sessions = [
        engine.open(seed + i, branch_point.context.newest(engine.given_frames))
        for i, branch_point in enumerate(branch_points)
    ]
    before = np.stack([session.frame for session in sessions])
    appearance, seen = _Appearance(), []
    for t in range(controls.shape[1]):
        held = {
            session: space.from_vector(row) for session, row in zip(sessions, controls[:, t], strict=True)
        }
        answers = engine.step(held)
        frames = np.stack([answers[session].frame for session in sessions])
        appearance.add(frames, before, rest)
        before = frames
        if idm is not None and t % _EVERY == 0:
            seen.append(resize_for_idm(frames))
    return appearance.scores() | (_features(idm, np.stack(seen, 1)) if idm is not None else {})


def source_rollouts(
    simulator: Simulator,
    idm: InverseDynamicsModel | None,
    branch_points: list[BranchPoint],
    frames: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The same of the source, under random play, for rollouts that no end cuts short."""
    rows: list[dict[str, np.ndarray]] = []
    for i, branch_point in enumerate(branch_points):
        controls = random_controls(simulator.spec.control_space, np.random.default_rng([seed, i]), frames)
        run = act(simulator, branch_point, map(simulator.spec.control_space.from_vector, controls))
        if run is None:
            continue
        appearance = _Appearance()
        for before, frame in zip(run.frames[:-1], run.frames[1:], strict=True):
            appearance.add(frame[None], before[None], run.frames[:1])
        features = _features(idm, resize_for_idm(run.frames[1::_EVERY])[None]) if idm is not None else {}
        rows.append(appearance.scores() | features)
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if rows else {}


def drift_metrics(rollout: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray]) -> dict[str, Metric]:
    """Return ``drift_ratio``, ``drift_gradient_ratio``, ``drift_frame_diff_ratio`` under random controls."""
    frames = rollout["motion"].shape[1]
    end = slice(-max(round(SHARE * frames), 1), None)
    metrics = {
        f"drift_{name}": metric(
            estimate(rollout[key][:, end] / real[key].mean()),
            f"{text} of the last 15 % of {frames} frames of random controls over the source's; "
            "a static, blank image: 0; the source itself: 1",
            unit="ratio",
            lower_reference=0.0,
            upper_reference=1.0,
        )
        for name, key, text in (
            ("gradient_ratio", "gradient", "brightness gradient"),
            ("frame_diff_ratio", "motion", "change"),
        )
    }
    if "features" not in rollout or len(real["features"]) < 2:
        return metrics
    own, apart = rollout["features"], split_half_distance(real["features"])
    return {
        "drift_ratio": metric(
            pooled(lambda rows: _first_to_last(own[rows]) / apart, len(own)),
            f"first against last 15 % of {frames} frames of random controls, Frechet distance of the IDM's "
            "features, over that between as many frames of either half of the source's rollouts",
            unit="ratio",
            upper_reference=1.0,
        )
    } | metrics


def idle_metrics(
    rollout: Mapping[str, np.ndarray], lower: float | None, upper: float | None
) -> dict[str, Metric]:
    """``idle_psnr`` and ``idle_frame_diff`` of rollouts without any key, where nothing moves by itself."""
    frames = rollout["motion"].shape[1]
    end = slice(-max(round(SHARE * frames), 1), None)
    where = f"of {frames} frames without a key"
    return {
        "idle_psnr": metric(
            estimate(rollout["kept"][:, end]),
            f"last 15 % {where}, against the source's at rest; lower: an unrelated frame; "
            "upper: tokenizer_psnr",
            lower_reference=lower,
            upper_reference=upper,
        ),
        "idle_frame_diff": metric(
            estimate(rollout["motion"][:, end]),
            f"change from frame to frame in the last 15 % {where}",
            unit="grey levels",
            upper_reference=0.0,
        ),
    }


def frame_at_rest(simulator: Simulator, branch_point: BranchPoint) -> np.ndarray:
    """``uint8 [H, W, 3]``: what the source shows when no key has been held for a while."""
    run = act(simulator, branch_point, [Control()] * _RESTING)
    return branch_point.context.frames[-1] if run is None else run.frames[-1]


def split_half_distance(features: np.ndarray) -> float:
    """Frechet distance between the frames of one half of rollouts [N, F, D] and those of the other half.

    From each as many frames as a first or last 15 % has, split_half_distance over the walk.
    """
    half = len(features) // 2
    count = max(round(SHARE * features.shape[1]), 1)
    at = np.linspace(0, features.shape[1] - 1, max(count, 2)).round().astype(int)
    return frechet(_flat(features[:half, at]), _flat(features[half : 2 * half, at]))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between the Gaussians that fit two sets of features ``[N, D]``."""
    (mean_a, cov_a), (mean_b, cov_b) = _gaussian(a), _gaussian(b)
    root = _root(cov_a)
    cross = _root(root @ cov_b @ root).trace()
    apart = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(float(apart), 0.0)


class _Appearance:
    """Sharpness, motion and similarity of frames, collected step by step."""

    def __init__(self) -> None:
        self._rows: list[dict[str, np.ndarray]] = []

    def add(self, frames: np.ndarray, before: np.ndarray, rest: np.ndarray) -> None:
        """One frame of every walk, the one before it, and that at rest, ``uint8 [N, H, W, 3]``."""
        appearance = {
            "gradient": gradient(frames),
            "motion": motion(frames, before),
            "kept": psnr(frames, rest),
        }
        self._rows.append(appearance)

    def scores(self) -> dict[str, np.ndarray]:
        """``float64 [N, F]``, by name."""
        return {name: np.stack([row[name] for row in self._rows], 1) for name in self._rows[0]}


def _first_to_last(features: np.ndarray) -> float:
    count = max(round(SHARE * features.shape[1]), 1)
    return frechet(_flat(features[:, :count]), _flat(features[:, -count:]))


def _features(idm: InverseDynamicsModel, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return IDM features of resized frames [N, T, 60, 80, 3]."""
    return {"features": idm.features(frames)}


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])


def _gaussian(features: np.ndarray) -> tuple[Tensor, Tensor]:
    # torch, not NumPy: its threads are those that the caller set, and such resize_for_idm matrices want one.
    rows = torch.from_numpy(np.ascontiguousarray(features, np.float64))
    mean = rows.mean(0)
    centred = rows - mean
    return mean, centred.T @ centred / len(rows)


def _root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
