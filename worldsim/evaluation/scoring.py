"""All scores of one batch of recorded play: teacher-forced, imagined in several ways, read by the IDM.

Shapes: N trajectories, F frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from worldsim.engine.world import World
from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.baselines.score import score_baseline
from worldsim.evaluation.idm.model import InverseDynamicsModel, ego_motion, resize_for_idm
from worldsim.evaluation.rollouts import RolloutConfig, score_rollout, score_static
from worldsim.evaluation.teacher_forced import TeacherForcing, score_teacher_forced
from worldsim.evaluation.trajectories import Trajectories

__all__ = ["IDM_FRAMES", "Batch", "score_batch", "score_long"]

IDM_FRAMES = 64
"""Frames of a rollout that are read by the IDM."""
_MIDDLE_FRAMES = 64
"""Frames of the rollouts under shuffled controls and given poses."""
_EXTRA_DRAWS = 3
"""Further draws of the same rollouts, of 16 frames, where chance decides what is seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Trajectories to score, and the settings of their rollouts."""

    world: World
    true: Trajectories
    idm: InverseDynamicsModel | None
    baselines: tuple[Baseline, ...]
    context: int
    denoising_steps: int
    seed: int


def score_batch(
    batch: Batch, teacher: int, every: int, horizon: int, on_progress: Callable[[float], None]
) -> dict[str, np.ndarray]:
    """All scores; those of a rollout are named ``<rollout>.<score>``, those of the truth ``static.<score>``.

    Those of a baseline are named ``<baseline>.<score>``. With an IDM also ``<rollout>.keys``,
    ``<rollout>.moved`` and ``<rollout>.features`` of the first 64 frames of ``true``, ``pose`` and ``real``,
    and the truth ``held`` and ``moved``. ``seeds``: seeds of the rollouts.
    """
    others = [k for k in batch.world.networks.sampler.allowed_steps if k != batch.denoising_steps]
    forcing = TeacherForcing(
        context=batch.context, frames=teacher, every=every, denoising_steps=(batch.denoising_steps, *others)
    )
    scores = dict(score_teacher_forced(batch.world, batch.true, forcing, batch.seed))
    static = score_static(batch.true, batch.context, horizon)
    configs = _rollout_configs(batch, horizon)
    cost = [config.frames for config in configs.values()]
    for i, (name, config) in enumerate(configs.items()):
        on_progress(0.3 + 0.7 * sum(cost[:i]) / sum(cost))
        imagined = score_rollout(batch.world, batch.true, config, batch.seed)
        scores |= {f"{name}.{key}": values for key, values in imagined.items()}
    scores |= _extra_draws(batch, configs["true"])
    scores |= {f"static.{key}": values for key, values in static.items()}
    scores |= _idm_scores(batch, scores)
    for baseline in batch.baselines:
        frames = min(horizon, _MIDDLE_FRAMES)
        scores |= score_baseline(baseline, batch.true, batch.idm, batch.context, frames)
    scores["seeds"] = batch.seed + np.arange(len(batch.true))
    on_progress(1.0)
    return {name: values for name, values in scores.items() if not name.endswith(".seen")}


def score_long(batch: Batch, horizon: int, on_progress: Callable[[float], None]) -> dict[str, np.ndarray]:
    """Scores of one long rollout under the true controls, ``long.<score>``, and ``longstatic.<score>``."""
    config = RolloutConfig(
        context=batch.context,
        frames=horizon,
        denoising_steps=batch.denoising_steps,
        controls=batch.true.controls,
    )
    static = score_static(batch.true, batch.context, horizon)
    imagined = score_rollout(batch.world, batch.true, config, batch.seed)
    on_progress(1.0)
    scores = {f"long.{key}": values for key, values in imagined.items()}
    return scores | {f"longstatic.{key}": values for key, values in static.items()}


def _rollout_configs(batch: Batch, horizon: int) -> dict[str, RolloutConfig]:
    """The rollouts that are scored: with the true controls, another trajectory's, true poses, and other K."""
    true, keep = batch.true, 0 if batch.idm is None else IDM_FRAMES
    longest = RolloutConfig(
        context=batch.context,
        frames=horizon,
        denoising_steps=batch.denoising_steps,
        controls=true.controls,
        keep=keep,
    )
    middle = replace(longest, frames=min(horizon, _MIDDLE_FRAMES))
    configs = {
        "true": longest,
        "shuffled": replace(middle, controls=np.roll(true.controls, 1, 0), keep=0),
    }
    if batch.world.networks.has_poses:
        configs["pose"] = replace(middle, poses=true.poses)
    for k in batch.world.networks.sampler.allowed_steps:
        if k != batch.denoising_steps:
            configs[f"k{k}"] = replace(longest, frames=min(horizon, 16), denoising_steps=k, keep=0)
    return configs


def _extra_draws(batch: Batch, config: RolloutConfig) -> dict[str, np.ndarray]:
    """The same rollouts under other chance, ``draw1.psnr``, ..., where no scene fixes what is seen."""
    if batch.world.networks.scene is not None:
        return {}
    short = replace(config, frames=min(config.frames, 16), keep=0)
    seeds = {draw: batch.seed + draw * 1_000_000 for draw in range(1, _EXTRA_DRAWS + 1)}
    return {
        f"draw{draw}.psnr": score_rollout(batch.world, batch.true, short, seed)["psnr"]
        for draw, seed in seeds.items()
    }


def _idm_scores(batch: Batch, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Predictions of the IDM for kept imagined frames and for true ones."""
    true, idm = batch.true, batch.idm
    if idm is None or true.poses is None:
        return {}
    count = scores["true.seen"].shape[1]
    then = slice(batch.context - 1, batch.context + count)
    real = resize_for_idm(true.frames[:, then])
    keys = len(batch.world.spec.control_space.keys)
    found = {
        "held": true.controls[:, then][:, 1:, :keys] > 0.5,
        "moved": ego_motion(true.poses[:, then]),
    }
    for name in ("true", "pose", "real"):
        if name == "real" or f"{name}.seen" in scores:
            later = real[:, 1:] if name == "real" else scores[f"{name}.seen"]
            prediction = idm.predict(np.concatenate([real[:, :1], later], 1))
            found |= {
                f"{name}.keys": prediction.keys,
                f"{name}.moved": prediction.motion,
                f"{name}.features": prediction.features,
            }
    return found
