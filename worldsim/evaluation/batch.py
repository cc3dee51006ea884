"""All scores of one batch of recorded play: teacher-forced, dreamt in several ways, judged.

Shapes: N trajectories, F frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from worldsim.engine.world import World
from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.baselines.score import score_baseline
from worldsim.evaluation.judge import Judge, planar_motion, small
from worldsim.evaluation.open_loop import Walk, score_dream, score_true
from worldsim.evaluation.teacher import Plan, teacher_forced
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["JUDGED", "Batch", "score_batch", "score_long"]

JUDGED = 64
"""Frames of a dream that are judged."""
_OTHERS = 64
"""Frames of the dreams under shuffled controls and given poses."""
_AGAIN = 3
"""Further draws of the same dreams, of 16 frames, where chance decides what is seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What is scored, and how it is dreamt."""

    world: World
    true: Trajectories
    judge: Judge | None
    baselines: tuple[Baseline, ...]
    context: int
    steps: int
    seed: int


def score_batch(
    batch: Batch, teacher: int, every: int, horizon: int, on_progress: Callable[[float], None]
) -> dict[str, np.ndarray]:
    """All scores; those of a dream are named ``<dream>.<score>``, those of the truth ``still.<score>``.

    Those of a baseline are named ``<baseline>.<score>``. With a judge also ``<dream>.keys``,
    ``<dream>.moved`` and ``<dream>.features`` of the first 64 frames of ``true``, ``pose`` and ``real``, and
    the truth ``held`` and ``moved``. ``chance``: the dreams' seeds.
    """
    others = [k for k in batch.world.networks.sampler.allowed_steps if k != batch.steps]
    plan = Plan(context=batch.context, frames=teacher, every=every, steps=(batch.steps, *others))
    scores = dict(teacher_forced(batch.world, batch.true, plan, batch.seed))
    still = score_true(batch.true, batch.context, horizon)
    walks = _walks(batch, horizon)
    cost = [walk.frames for walk in walks.values()]
    for i, (name, walk) in enumerate(walks.items()):
        on_progress(0.3 + 0.7 * sum(cost[:i]) / sum(cost))
        dreamt = score_dream(batch.world, batch.true, walk, batch.seed)
        scores |= {f"{name}.{key}": values for key, values in dreamt.items()}
    scores |= _drawn_again(batch, walks["true"])
    scores |= {f"still.{key}": values for key, values in still.items()}
    scores |= _judged(batch, scores)
    for baseline in batch.baselines:
        frames = min(horizon, _OTHERS)
        scores |= score_baseline(baseline, batch.true, batch.judge, batch.context, frames)
    scores["chance"] = batch.seed + np.arange(len(batch.true))
    on_progress(1.0)
    return {name: values for name, values in scores.items() if not name.endswith(".seen")}


def score_long(batch: Batch, horizon: int, on_progress: Callable[[float], None]) -> dict[str, np.ndarray]:
    """Scores of one long dream under the true controls, ``long.<score>``, and ``longstill.<score>``."""
    walk = Walk(context=batch.context, frames=horizon, steps=batch.steps, controls=batch.true.controls)
    still = score_true(batch.true, batch.context, horizon)
    dreamt = score_dream(batch.world, batch.true, walk, batch.seed)
    on_progress(1.0)
    scores = {f"long.{key}": values for key, values in dreamt.items()}
    return scores | {f"longstill.{key}": values for key, values in still.items()}


def _walks(batch: Batch, horizon: int) -> dict[str, Walk]:
    """The dreams that are scored: with the true controls, another trajectory's, true poses, and other K."""
    true, keep = batch.true, 0 if batch.judge is None else JUDGED
    longest = Walk(
        context=batch.context, frames=horizon, steps=batch.steps, controls=true.controls, keep=keep
    )
    middle = replace(longest, frames=min(horizon, _OTHERS))
    walks = {
        "true": longest,
        "shuffled": replace(middle, controls=np.roll(true.controls, 1, 0), keep=0),
    }
    if batch.world.networks.has_poses:
        walks["pose"] = replace(middle, poses=true.poses)
    for k in batch.world.networks.sampler.allowed_steps:
        if k != batch.steps:
            walks[f"k{k}"] = replace(longest, frames=min(horizon, 16), steps=k, keep=0)
    return walks


def _drawn_again(batch: Batch, walk: Walk) -> dict[str, np.ndarray]:
    """The same dreams under other chance, ``again1.psnr``, ..., where no scene fixes what is seen."""
    if batch.world.networks.place is not None:
        return {}
    short = replace(walk, frames=min(walk.frames, 16), keep=0)
    seeds = {draw: batch.seed + draw * 1_000_000 for draw in range(1, _AGAIN + 1)}
    return {
        f"again{draw}.psnr": score_dream(batch.world, batch.true, short, seed)["psnr"]
        for draw, seed in seeds.items()
    }


def _judged(batch: Batch, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the judge sees in the kept frames, and in the true ones."""
    true, judge = batch.true, batch.judge
    if judge is None or true.poses is None:
        return {}
    count = scores["true.seen"].shape[1]
    then = slice(batch.context - 1, batch.context + count)
    real = small(true.frames[:, then])
    keys = len(batch.world.spec.control_space.keys)
    found = {
        "held": true.controls[:, then][:, 1:, :keys] > 0.5,
        "moved": planar_motion(true.poses[:, then]),
    }
    for name in ("true", "pose", "real"):
        if name == "real" or f"{name}.seen" in scores:
            later = real[:, 1:] if name == "real" else scores[f"{name}.seen"]
            verdict = judge.read(np.concatenate([real[:, :1], later], 1))
            found |= {
                f"{name}.keys": verdict.keys,
                f"{name}.moved": verdict.motion,
                f"{name}.features": verdict.features,
            }
    return found
