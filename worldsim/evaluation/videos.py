"""Videos of rollouts beside the source under the same keys, and a contact sheet of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from worldsim.data.collector import Collector
from worldsim.engine.world import World
from worldsim.evaluation.mp4 import encode
from worldsim.evaluation.rollouts import RolloutConfig, rollout
from worldsim.evaluation.trajectories import check_seeds, collect_longest, reporting_seeds

__all__ = ["SHEET", "VIDEO_FRAMES", "VideoPairs", "render_videos", "write_videos"]

SHEET = "sheet.png"
"""Name of the contact sheet."""
VIDEO_FRAMES = 350
"""Twenty seconds at 17.5 frames a second."""
_CONTEXT = 4
_COLUMNS = 11
_BAR = 16
"""Height of a caption in pixels."""


@dataclass(frozen=True, slots=True)
class VideoPairs:
    """Rollouts beside the true frames."""

    pairs: np.ndarray
    """uint8 [N, 2, T, H, W, 3]: the rollout, then the source; the last given frame comes first."""
    seeds: tuple[int, ...]
    """Seeds of the reporting episodes."""
    fps: float

    def sheet(self) -> np.ndarray:
        """uint8 [h, w, 3]: a pair of rows for each, the rollout above the source, evenly through the time."""
        return _sheet(self.pairs, self.seeds, self.fps)


def render_videos(
    world: World,
    collector: Collector,
    *,
    count: int = 10,
    frames: int = VIDEO_FRAMES,
    denoising_steps: int | None = None,
    seed: int = 0,
) -> VideoPairs:
    """Imagine ``count`` reporting episodes. Keys and yaw only; poses are predicted.

    Where episodes are short, videos have fewer than ``frames``.

    Raises:
        SourceError: the episodes are too short.
    """
    check_seeds(start.seed for start in world.starts)
    true = collect_longest(collector, reporting_seeds(seed), count, _CONTEXT + frames, _CONTEXT + 1)
    frames = true.frames.shape[1] - _CONTEXT
    config = RolloutConfig(
        context=_CONTEXT, frames=frames, denoising_steps=denoising_steps, controls=true.controls
    )
    imagined = [true.frames[:, _CONTEXT - 1]]
    imagined += [
        np.stack([step.frame for step in step_row]) for step_row in rollout(world, true, config, seed * 1000)
    ]
    pairs = np.stack([np.stack(imagined, 1), true.frames[:, _CONTEXT - 1 :]], 1)
    return VideoPairs(pairs, true.seeds, world.spec.fps)


def write_videos(
    world: World,
    collector: Collector,
    folder: Path,
    *,
    count: int = 10,
    frames: int = VIDEO_FRAMES,
    denoising_steps: int | None = None,
    seed: int = 0,
) -> None:
    """Write ``<seed>.mp4`` of each pair of ``render_videos``, and ``sheet.png`` of all of them.

    Raises:
        DependencyError: PyAV is missing.
        SourceError: the episodes are too short.
    """
    videos = render_videos(
        world, collector, count=count, frames=frames, denoising_steps=denoising_steps, seed=seed
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, pair in zip(videos.seeds, videos.pairs, strict=True):
        video = encode(np.concatenate(list(pair), 2), videos.fps)
        (folder / f"{name}.mp4").write_bytes(video)
    Image.fromarray(videos.sheet()).save(folder / SHEET)


def _sheet(pairs: np.ndarray, seeds: tuple[int, ...], fps: float) -> np.ndarray:
    """``pairs`` [N, 2, T, H, W, 3] to one picture."""
    times = np.linspace(0, pairs.shape[2] - 1, _COLUMNS).round().astype(int)
    width = pairs.shape[4] * len(times)
    rows = [_caption([f"{time / fps:.1f} s" for time in times], width)]
    for seed, pair in zip(seeds, pairs, strict=True):
        rows.append(_caption([f"{seed}: rollout above, source below"], width))
        rows += [np.concatenate(list(row[times]), 1) for row in pair]
    return np.concatenate(rows)


def _caption(texts: list[str], width: int) -> np.ndarray:
    bar = Image.new("RGB", (width, _BAR))
    for i, text in enumerate(texts):
        ImageDraw.Draw(bar).text((i * width // len(texts) + 3, 2), text, fill="white")
    return np.asarray(bar)
