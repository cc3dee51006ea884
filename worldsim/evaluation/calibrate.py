"""``worldsim calibrate``: fit the noise gain of a trained world to the lengths of recorded episodes.

A flow that was trained for a limited time smooths rare events away: too few are sampled at the noise that it
was trained with, and imagined episodes are too long. The gain of the noise is the smallest repair. It is
found by bisection: mean imagined over mean recorded length, from the same first frames under the recorded
controls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from worldsim.checkpoint import find_world, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.engine.world import World, load
from worldsim.evaluation.episode_lengths import (
    EPISODE_FRAMES,
    EpisodeStart,
    check_comparable,
    imagined_lengths,
)
from worldsim.options import COUNT, SEED, THREADS, Parser
from worldsim.utils.output_paths import check_writable
from worldsim.utils.progress import ProgressReporter

__all__ = ["fit_noise_gain", "main", "recorded_starts"]

_GIVEN = 4
LOWEST, HIGHEST = 0.5, 2.0
"""Bounds of the gain."""
_BISECTIONS = 6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: the gain is written to the world's config."""
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    folder, world = find_world(args.world), load(args.world, args.device)
    check_writable(folder.absolute().parent)  # where the new world is built
    starts = recorded_starts(ClipStore(args.data, world.spec.size, "held_out"), args.episodes)
    with ProgressReporter("calibrating", 1.0) as reporter:
        gain, ratio = fit_noise_gain(world, starts, args.seed, reporter.update)
    told = f"noise gain {gain:.3f}: imagined over recorded length {ratio:.2f} in {len(starts)} episodes"
    print(told, flush=True)  # first: it is told even if it cannot be saved
    stored = load_world(folder)
    networks = replace(stored.config.networks, noise_gain=gain)
    config = replace(stored.config, networks=networks)
    save_world(folder, config, stored.networks, stored.starts, stored.card)
    return 0


def _parser() -> argparse.ArgumentParser:
    description = "Fit a world's noise gain to the lengths of recorded episodes."
    parser = Parser(prog="worldsim calibrate", description=description)
    parser.add_argument("world", help="name or folder of the world, whose config is rewritten")
    parser.add_argument("--data", type=Path, required=True, help="folder that `worldsim record` wrote")
    parser.add_argument("--episodes", type=COUNT, default=96, help="held-out episodes")
    parser.add_argument("--seed", type=SEED, default=0, help="random seed of the imagined episodes")
    parser.add_argument("--threads", type=THREADS, help="CPU threads (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser


def recorded_starts(clips: ClipStore, count: int) -> list[EpisodeStart]:
    """Starts of at most ``count`` recorded episodes with all their controls.

    Where an episode ends, the controls of the next ones go on.

    Raises:
        SourceError: hardly any episode ended by itself.
    """
    tracks = clips.tracks
    first = np.flatnonzero(tracks.first == np.arange(len(tracks.first)))
    first = first[tracks.last[first] - first > _GIVEN]
    inner = tracks.first != np.arange(len(tracks.first))
    later = tracks.controls[inner]  # of all episodes, one after the other
    place = np.cumsum(inner) - inner
    starts = []
    for at in first[:count]:
        rows = np.arange(place[at], place[at] + EPISODE_FRAMES - 1) % len(later)
        controls = np.concatenate([np.zeros_like(later[:1]), later[rows]])
        poses = None if tracks.poses is None else tracks.poses[at : at + _GIVEN]
        frames = clips.frames[tracks.frame[at : at + _GIVEN]]
        length = min(int(tracks.last[at] - at), EPISODE_FRAMES)
        starts.append(EpisodeStart(frames, poses, controls, length, int(at)))
    check_comparable(starts, int(tracks.ends[tracks.last[first[:count]]].sum()), len(starts))
    return starts


def fit_noise_gain(
    world: World,
    starts: Sequence[EpisodeStart],
    seed: int = 0,
    on_progress: Callable[[float, str], None] = lambda share, line: None,
) -> tuple[float, float]:
    """Fit the gain by bisection and set it in ``world.networks.config``.

    Returns:
        The gain in [0.5, 2], and the ratio of mean lengths, imagined over recorded, at that gain.
    """

    def ratio_at(gain: float) -> float:
        world.networks.config = replace(world.networks.config, noise_gain=gain)
        lengths = imagined_lengths(world, starts, world.networks.sampler.default_steps, seed)
        return float(lengths["imagined"].mean() / lengths["real"].mean())

    low, high, gain, ratio = LOWEST, HIGHEST, 1.0, float("nan")
    tried: list[tuple[float, float]] = []
    for number in range(_BISECTIONS):
        ratio = ratio_at(gain)
        tried.append((abs(float(np.log(ratio))), gain))
        on_progress((number + 1) / _BISECTIONS, f"gain {gain:.3f}: lengths {ratio:.2f} of the recorded")
        low, high = (gain, high) if ratio > 1 else (low, gain)
        gain = float(np.sqrt(low * high))
    best = min(tried)[1]
    return best, ratio_at(best)
