"""The best, the median and the worst dream, to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldsim.data.recorder import Player
from worldsim.engine.world import World
from worldsim.evaluation.mp4 import encode
from worldsim.evaluation.open_loop import Walk, dream
from worldsim.evaluation.trajectories import Trajectories, collect
from worldsim.evaluation.yardstick import CONTEXT, Report

__all__ = ["Case", "cases_of"]


@dataclass(frozen=True, slots=True)
class Case:
    """One dream beside the environment."""

    title: str
    video: bytes
    """mp4: dream | environment | difference."""
    true: np.ndarray | None
    """``float64 [F, 2]``: where the environment's camera was, metres on the ground."""
    dreamt: np.ndarray | None
    """``float64 [F, 2]``: where the dream believed to be."""


def cases_of(world: World, player: Player, report: Report, steps: int) -> list[Case]:
    """Dream the best, the median and the worst trajectory of a report again, under the true keys alone.

    Raises:
        DependencyError: PyAV is missing.
    """
    score = report.scores["true.psnr"].mean(1)
    order = np.argsort(score)
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    frames = report.scores["true.psnr"].shape[1]
    cases = []
    for name, number in chosen.items():
        true = collect(player, iter([report.seeds[number]]), 1, report.length)
        title = f"{name}: episode {true.seeds[0]}, {score[number]:.1f} dB over {frames} frames of keys alone"
        walk = Walk(context=CONTEXT, frames=frames, steps=steps, controls=true.controls)
        shown = _triptych(world, true, walk, int(report.scores["chance"][number]))
        video = encode(shown, world.spec.fps, height=240, crf=24)
        cases.append(Case(title, video, *_ways(report.scores, int(number))))
    return cases


def _triptych(world: World, true: Trajectories, walk: Walk, seed: int) -> np.ndarray:
    """``uint8 [F, H, 3 W, 3]``."""
    dreamt = np.stack([steps[0].frame for steps in dream(world, true, walk, seed)])
    real = true.frames[0, walk.context : walk.context + walk.frames]
    apart = np.abs(dreamt.astype(np.int16) - real).astype(np.uint8)
    return np.concatenate([dreamt, real, apart], 2)


def _ways(scores: Mapping[str, np.ndarray], number: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    if "true.track" not in scores:
        return None, None
    return scores["still.track"][number, :, :2], scores["true.track"][number, :, :2]
