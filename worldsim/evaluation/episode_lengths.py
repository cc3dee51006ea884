"""Lengths of imagined episodes over those of real ones, from the same first frames under the same controls.

Shapes: N episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from worldsim.data.episodes import EpisodeArrays
from worldsim.engine.world import World
from worldsim.errors import SourceError
from worldsim.evaluation.detector import Detector
from worldsim.evaluation.metric import Metric, metric, pooled
from worldsim.evaluation.objects_before_ends import FRAMES_BEFORE_END, EndWatch, real_pixels
from worldsim.pixels import to_frame, to_model
from worldsim.sampling.clock import imagine_frame, init_state, observe_frame
from worldsim.sampling.control_batch import ControlBatch

__all__ = [
    "EPISODE_FRAMES",
    "EpisodeStart",
    "Policy",
    "check_comparable",
    "episode_length_metrics",
    "episode_start",
    "imagined_lengths",
]

EPISODE_FRAMES = 600
"""Episodes are cut there, real and imagined ones."""
Policy = Callable[[int, int], np.ndarray | None]
"""Seed and frames to the controls ``float32 [F, M]`` of an episode without end; None: it must see."""

_GIVEN = 4
_TIMES_REAL = 4
"""Imagined episodes are cut at this many times the longest real one, too."""
_EVERY = 16
"""Frames between two looks at which worlds have ended."""
_FEWEST_ENDS = 4


@dataclass(frozen=True, slots=True)
class EpisodeStart:
    """The first frames of a real episode, its whole length, and the controls as they would go on."""

    frames: np.ndarray
    """``uint8 [4, H, W, 3]``."""
    poses: np.ndarray | None
    controls: np.ndarray
    """``float32 [EPISODE_FRAMES, M]``: what leads into each frame; zeros into the first."""
    length: int
    """Frames of the real episode, at most ``EPISODE_FRAMES``."""
    seed: int
    last: np.ndarray | None = None
    """The last frames, ``uint8 [10, H, W, 3]``, where the real episode ended by itself within
    ``EPISODE_FRAMES``; else None."""


def episode_start(episode: EpisodeArrays, policy: Policy) -> EpisodeStart | None:
    """The beginning of a real episode; None where it is as short as what is given, or the policy must see."""
    if len(episode) <= _GIVEN:
        return None
    controls = policy(episode.seed, EPISODE_FRAMES)
    if controls is None:
        return None
    poses = None if episode.poses is None else episode.poses[:_GIVEN]
    led = np.concatenate([np.zeros_like(controls[:1]), controls])[:EPISODE_FRAMES]
    length = min(len(episode), EPISODE_FRAMES)
    ended = bool(episode.terminated[-1]) and length == len(episode)
    last = episode.frames[-FRAMES_BEFORE_END:].copy() if ended else None
    return EpisodeStart(episode.frames[:_GIVEN], poses, led, length, episode.seed, last)


def check_comparable(begun: Sequence[EpisodeStart], ended: int, count: int) -> None:
    """Make sure that lengths can be compared.

    Raises:
        SourceError: hardly any of the episodes ended by itself, or nothing was begun.
    """
    if ended < min(_FEWEST_ENDS, count):
        rule = "episodes must end by themselves for their lengths to be compared"
        raise SourceError(rule, f"{ended} of {count} do", "compare lengths where the task can end")
    if not begun:
        rule = "the recording behaviour must play without seeing, to play on in imagined frames"
        raise SourceError(rule, None, "compare lengths where it is blind")


def imagined_lengths(
    world: World,
    given: Sequence[EpisodeStart],
    denoising_steps: int,
    seed: int,
    detector: Detector | None = None,
) -> dict[str, np.ndarray]:
    """``imagined`` and ``real`` lengths in frames, ``float64 [N]``; both count the given frames.

    Imagined episodes are cut at ``EPISODE_FRAMES`` and at four times the longest real one of those given.
    With a ``detector`` also ``imagined_before_end`` and ``real_before_end``, see ``metrics_before_ends``.
    """
    frames = np.stack([one.frames for one in given])
    controls = np.stack([one.controls for one in given])
    n, known = len(given), [one.poses for one in given if one.poses is not None]
    poses = np.stack(known) if known else np.tile(np.eye(4), (n, _GIVEN, 1, 1))
    cut = min(EPISODE_FRAMES, _TIMES_REAL * max(one.length for one in given))
    lengths, alive = np.full(n, cut), np.arange(n)
    watch = None if detector is None else EndWatch(detector, n)
    with torch.inference_mode():
        seeds = np.arange(n, dtype=np.uint64) + np.uint64(seed)
        memory = init_state(world.networks, to_model(frames[:, 0], world.device), poses[:, 0], seeds)
        for t in range(1, _GIVEN):
            led = ControlBatch(controls[:, t], poses[:, t], np.full(n, world.networks.has_poses))
            observe_frame(world.networks, memory, to_model(frames[:, t], world.device), led)
        for t in range(_GIVEN, cut):
            blind = np.zeros(len(alive), bool)
            led = ControlBatch(controls[alive, t], np.tile(np.eye(4), (len(alive), 1, 1)), blind)
            made = imagine_frame(world.networks, memory, led, denoising_steps, decode=watch is not None)
            over = alive[made.terminated.cpu().numpy() & (lengths[alive] == cut)]
            lengths[over] = t
            if watch is not None:
                watch.see(alive, to_frame(made.frame.float()).cpu().numpy())
                watch.end(over)
            if (t % _EVERY) == 0:
                left = np.flatnonzero(lengths[alive] == cut)
                if not len(left):
                    break
                memory, alive = memory.pick(left), alive[left]
    scores = {"imagined": lengths.astype(np.float64), "real": np.array([one.length for one in given], float)}
    if detector is None or watch is None:
        return scores
    real = real_pixels(detector, [one.last for one in given])
    return scores | {"imagined_before_end": watch.pixels, "real_before_end": real}


def episode_length_metrics(scores: Mapping[str, np.ndarray]) -> dict[str, Metric]:
    """Imagined over real: the mean length, and its 10, 50 and 90 % quantiles."""
    imagined, real = scores["imagined"], scores["real"]

    def ratio(of: Callable[[np.ndarray], float], text: str) -> Metric:
        return metric(
            pooled(lambda rows: of(imagined[rows]) / of(real[rows]), len(real)),
            f"{text} length of imagined episodes over that of real ones, same first frames and controls, cut "
            f"at {EPISODE_FRAMES} frames, imagined ones also at four times the longest real one: "
            f"{of(imagined):.0f} over {of(real):.0f}",
            unit="ratio",
            upper_reference=1.0,
        )

    metrics = {"episode_length_ratio": ratio(lambda lengths: float(lengths.mean()), "mean")}
    for share in (10, 50, 90):
        name = f"episode_length_ratio_p{share}"
        metrics[name] = ratio(partial(_percentile, share), f"{share} %")
    return metrics


def _percentile(share: int, lengths: np.ndarray) -> float:
    return float(np.percentile(lengths, share))
