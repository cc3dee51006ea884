"""Example rollouts: the best, the median and the worst of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from worldsim.data.collector import Collector
from worldsim.engine.world import World
from worldsim.evaluation.mp4 import encode
from worldsim.evaluation.rollouts import RolloutConfig, rollout
from worldsim.evaluation.suite import CONTEXT, Report
from worldsim.evaluation.trajectories import Trajectories, collect

__all__ = ["STRIP_FRAMES", "ExampleRollout", "example_rollouts"]

STRIP_FRAMES = (1, 2, 4, 8, 16, 24, 32)
"""Frames that a strip shows."""
_SMALL = 120
"""Frames narrower than this are enlarged."""


@dataclass(frozen=True, slots=True)
class ExampleRollout:
    """One rollout beside the source."""

    title: str
    video: bytes
    """mp4: rollout | source | difference."""
    strip: bytes
    """png: frames of the source, the rollout's below."""
    true: np.ndarray | None
    """``float64 [F, 2]``: camera of the source, in metres on the ground."""
    imagined: np.ndarray | None
    """``float64 [F, 2]``: camera of the rollout."""


def example_rollouts(
    world: World, collector: Collector, report: Report, denoising_steps: int | None
) -> list[ExampleRollout]:
    """Imagine the best, the median and the worst trajectory of a report again, under the true keys alone.

    Raises:
        DependencyError: PyAV is missing.
    """
    score = report.scores["true.psnr"].mean(1)
    frames, order = report.scores["true.psnr"].shape[1], np.argsort(score)
    chosen = {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}
    numbers = list(chosen.values())
    true = _joined([collect(collector, iter([report.seeds[number]]), 1, report.length) for number in numbers])
    config = RolloutConfig(
        context=CONTEXT, frames=frames, denoising_steps=denoising_steps, controls=true.controls
    )
    seeds = [int(report.scores["seeds"][number]) for number in numbers]
    shown = _triptychs(world, true, config, seeds)
    examples = []
    for i, (name, number) in enumerate(chosen.items()):
        title = f"{name}: episode {true.seeds[i]}, {score[number]:.1f} dB over {frames} frames of keys alone"
        video = encode(shown[i], world.spec.fps, height=240, crf=24)
        examples.append(ExampleRollout(title, video, _strip(shown[i]), *_ways(report.scores, number)))
    return examples


def _joined(parts: list[Trajectories]) -> Trajectories:
    poses = [part.poses for part in parts if part.poses is not None]
    return Trajectories(
        np.concatenate([part.frames for part in parts]),
        np.concatenate([part.controls for part in parts]),
        np.concatenate(poses) if poses else None,
        tuple(seed for part in parts for seed in part.seeds),
    )


def _triptychs(world: World, true: Trajectories, config: RolloutConfig, seeds: list[int]) -> np.ndarray:
    """``uint8 [N, F, H, 3 W, 3]``."""
    rows = [np.stack([step.frame for step in steps]) for steps in rollout(world, true, config, seeds)]
    imagined, real = np.stack(rows, 1), true.frames[:, config.context : config.context + config.frames]
    apart = np.abs(imagined.astype(np.int16) - real).astype(np.uint8)
    return np.concatenate([imagined, real, apart], 3)


def _strip(triptych: np.ndarray) -> bytes:
    """Moments of a triptych ``uint8 [F, H, 3 W, 3]``, side by side."""
    width = triptych.shape[2] // 3
    chosen = [triptych[number - 1] for number in STRIP_FRAMES if number <= len(triptych)]
    rows = [np.concatenate([frame[:, at : at + width] for frame in chosen], 1) for at in (width, 0)]
    large = np.concatenate(rows).repeat(2, 0).repeat(2, 1) if width < _SMALL else np.concatenate(rows)
    file = BytesIO()
    Image.fromarray(large).save(file, "PNG")
    return file.getvalue()


def _ways(scores: Mapping[str, np.ndarray], number: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    if "true.track" not in scores:
        return None, None
    return scores["static.track"][number, :, :2], scores["true.track"][number, :, :2]
