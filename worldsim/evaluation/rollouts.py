"""Rollouts: after a few given frames the world continues on its own frames, through the engine.

Shapes: N trajectories, F imagined frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from worldsim import camera
from worldsim.engine.step import Step
from worldsim.engine.world import World
from worldsim.evaluation.detector import Detector
from worldsim.evaluation.idm.model import resize_for_idm
from worldsim.evaluation.image_metrics import (
    changed_pixels,
    gradient,
    motion,
    pose_errors,
    psnr,
    squared_error,
)
from worldsim.evaluation.objects import OBJECT_FRAMES, count_pixels
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["RolloutConfig", "rollout", "score_objects", "score_rollout", "score_static"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Settings of a rollout."""

    context: int
    """Frames that are given."""
    frames: int
    """Number of imagined frames, F."""
    denoising_steps: int | None
    """Denoising passes, K; None: the sampler's default."""
    controls: np.ndarray
    """``float32 [N, context + F, M]``: keys and yaw."""
    poses: np.ndarray | None = None
    """``float64 [N, context + F, 4, 4]``: explicit poses; None: predicted from the keys."""
    keep: int = 0
    """Number of imagined frames that are kept for the IDM."""
    detector: Detector | None = None
    """Detector for objects in the first frames; needs labels."""


def rollout(
    world: World, true: Trajectories, config: RolloutConfig, seed: int | Sequence[int]
) -> Iterator[list[Step]]:
    """Continue from the context of every trajectory in one batch; a list of N steps per frame.

    ``seed`` is of the first, whose next numbers the others get, or of each.
    """
    n, space = len(true), world.spec.control_space
    engine = world.engine(slots=n, denoising_steps=config.denoising_steps, rewind_frames=0)
    seeds = range(seed, seed + n) if isinstance(seed, int) else seed
    contexts = [true.context(i, config.context).newest(engine.given_frames) for i in range(n)]
    sessions = [engine.open(one, context) for one, context in zip(seeds, contexts, strict=True)]
    for t in range(config.context, config.context + config.frames):
        controls = {}
        for i, session in enumerate(sessions):
            held = space.from_vector(config.controls[i, t])
            pose = None if config.poses is None else config.poses[i, t]
            controls[session] = replace(held, pose=pose)
        steps = engine.step(controls)
        yield [steps[session] for session in sessions]


def score_rollout(
    world: World, true: Trajectories, config: RolloutConfig, seed: int
) -> Mapping[str, np.ndarray]:
    """Scores ``float64 [N, F]`` of every imagined frame against the true one of the same moment, by name.

    ``psnr`` in dB; ``gradient`` and ``motion`` (change since the frame before) in grey levels, of the rollout
    alone. ``uncertainty`` of the engine, where it is told. Where chances of bits are known: ``surprise`` in
    bits, and ``gain`` in dB over the true frame before, on the pixels that changed since (NaN where none
    did). In worlds with poses: ``metres`` and ``degrees`` between predicted
    and true pose, and ``track`` [N, F, 4], its x, y, z and yaw. Kept frames: ``seen`` uint8 [N, keep, 60, 80,
    3]. With a detector ``objects`` [N, up to 32, K, 4]; see ``count_pixels``.
    """
    scores: dict[str, list[np.ndarray]] = {}
    before = true.frames[:, config.context - 1]
    for t, steps in enumerate(rollout(world, true, config, seed), start=config.context):
        frames = np.stack([step.frame for step in steps])
        row = {
            "psnr": psnr(frames, true.frames[:, t]),
            "gradient": gradient(frames),
            "motion": motion(frames, before),
        }
        if all(step.uncertainty is not None for step in steps):
            row["uncertainty"] = np.array([step.uncertainty for step in steps], float)
        if all(step.surprise is not None for step in steps):
            row["surprise"] = np.array([step.surprise for step in steps], float)
            row["gain"] = _gain(frames, true.frames[:, t], true.frames[:, t - 1])
        if t < config.context + config.keep:
            row["seen"] = resize_for_idm(frames)
        if config.detector is not None and t < config.context + OBJECT_FRAMES:
            row["objects"] = count_pixels(config.detector.find(frames), _truth(true, t, config.detector))
        poses = [step.pose for step in steps if step.pose is not None]
        if poses and true.poses is not None:
            row["metres"], row["degrees"] = pose_errors(np.stack(poses), true.poses[:, t])
            row["track"] = camera.planar(np.stack(poses))
        for name, values in row.items():
            scores.setdefault(name, []).append(values)
        before = frames
    return {name: np.stack(rows, 1) for name, rows in scores.items()}


def _gain(frames: np.ndarray, now: np.ndarray, last: np.ndarray) -> np.ndarray:
    """dB [N] that frames are better than the ``last`` true one where the true frame ``now`` differs from it.

    NaN where it does not; all uint8 [N, H, W, 3].
    """
    where = changed_pixels(now, last)
    ours, theirs = (squared_error(shown, now, where) for shown in (frames, last))
    gain = 10 * (np.log10(np.maximum(theirs, 1e-9)) - np.log10(np.maximum(ours, 1e-9)))
    return np.where(where.any((-2, -1)), gain, np.nan)


def score_objects(
    true: Trajectories, detector: Detector, context: int, frames: int
) -> Mapping[str, np.ndarray]:
    """Counts of what the detector finds: ``real.objects`` in true frames, ``static.objects`` in a given one.

    Each [N, F, K, 4], of at most 32 frames; see ``count_pixels``.
    """
    last = detector.find(true.frames[:, context - 1])
    static, real = [], []
    for t in range(context, context + min(frames, OBJECT_FRAMES)):
        truth = _truth(true, t, detector)
        static.append(count_pixels(last, truth))
        real.append(count_pixels(detector.find(true.frames[:, t]), truth))
    return {"static.objects": np.stack(static, 1), "real.objects": np.stack(real, 1)}


def _truth(true: Trajectories, t: int, detector: Detector) -> np.ndarray:
    assert true.labels is not None, "a detector is used where there are labels"
    return detector.truth({kind: masks[:, t] for kind, masks in true.labels.items()})


def score_static(true: Trajectories, context: int, frames: int) -> Mapping[str, np.ndarray]:
    """Scores of the last given frame, repeated, and of the true frames.

    ``psnr``, ``metres``, ``degrees``: of the still picture. ``gradient``, ``motion``, ``track``: the truth's.
    ``blur``: the gradient of the mean of all true frames of a moment, which is what a blind world fades to.
    """
    then = slice(context, context + frames)
    last, later = true.frames[:, context - 1, None], true.frames[:, then]
    before = true.frames[:, context - 1 : context - 1 + frames]
    columns = range(later.shape[1])
    faded = np.array([gradient(later[:, t].mean(0)) for t in columns])
    scores = {
        "psnr": np.stack([psnr(last[:, 0], later[:, t]) for t in columns], 1),
        "gradient": np.stack([gradient(later[:, t]) for t in columns], 1),
        "motion": np.stack([motion(before[:, t], later[:, t]) for t in columns], 1),
        "blur": np.tile(faded, (len(true), 1)),
    }
    if true.poses is not None:
        static = np.broadcast_to(true.poses[:, context - 1, None], true.poses[:, then].shape)
        scores["metres"], scores["degrees"] = pose_errors(static, true.poses[:, then])
        scores["track"] = camera.planar(true.poses[:, then])
    return scores
