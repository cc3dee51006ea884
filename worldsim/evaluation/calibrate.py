"""``worldsim calibrate``: fit a number of a trained world to the lengths of recorded episodes.

A flow that was trained for a limited time smooths rare events away: too few are sampled at the noise that it
was trained with, and imagined episodes are too long. Two repairs are small: a gain of the noise (more of the
events) and a factor of the odds of an end (more of the ends that these events lead to). Either is found by
bisection: mean imagined over mean recorded length, from the same first frames under the recorded controls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from worldsim.checkpoint import find_world, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError
from worldsim.evaluation.episode_lengths import (
    EPISODE_FRAMES,
    EpisodeStart,
    check_comparable,
    imagined_lengths,
)
from worldsim.networks import NetworksConfig
from worldsim.options import COUNT, SEED, THREADS, Parser
from worldsim.utils.output_paths import check_writable
from worldsim.utils.progress import ProgressReporter

__all__ = ["FITS", "Fit", "fit_to_lengths", "main", "recorded_starts"]

_GIVEN = 4
_BISECTIONS = 6


@dataclass(frozen=True, slots=True)
class Fit:
    """A number of a world's config that makes imagined episodes shorter where it is higher."""

    title: str
    lowest: float
    highest: float
    apply: Callable[[NetworksConfig, float], NetworksConfig]
    """The config with another number."""


def _with_end_odds(config: NetworksConfig, odds: float) -> NetworksConfig:
    return replace(config, heads=replace(config.heads, end_odds=odds))


FITS = {
    "noise": Fit("noise gain", 0.5, 2.0, lambda config, gain: replace(config, noise_gain=gain)),
    "ends": Fit("odds of ends", 0.1, 10.0, _with_end_odds),
}
"""By the value of ``--fit``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: the number is written to the world's config.

    Raises:
        ConfigError: the odds of ends are fitted in a world that does not draw ends.
    """
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    fit, folder, world = FITS[args.fit], find_world(args.world), load(args.world, args.device)
    if args.fit == "ends" and not world.networks.config.sample_ends:
        rule = "odds of ends are fitted in a world that draws ends by their probability"
        raise ConfigError(rule, str(args.world), "fit the noise instead")
    check_writable(folder.absolute().parent)  # where the new world is built
    starts = recorded_starts(ClipStore(args.data, world.spec.size, "held_out"), args.episodes)
    with ProgressReporter("calibrating", 1.0) as reporter:
        value, ratio = fit_to_lengths(world, fit, starts, args.seed, reporter.update)
    told = f"{fit.title} {value:.3f}: imagined over recorded length {ratio:.2f} in {len(starts)} episodes"
    print(told, flush=True)  # first: it is told even if it cannot be saved
    stored = load_world(folder)
    config = replace(stored.config, networks=fit.apply(stored.config.networks, value))
    save_world(folder, config, stored.networks, stored.starts, stored.card)
    return 0


def _parser() -> argparse.ArgumentParser:
    description = "Fit a world's noise, or the odds of its ends, to the lengths of recorded episodes."
    parser = Parser(prog="worldsim calibrate", description=description)
    parser.add_argument("world", help="name or folder of the world, whose config is rewritten")
    help_data = "folder that `worldsim record` wrote, with keys that do not depend on what was seen"
    parser.add_argument("--data", type=Path, required=True, help=help_data)
    fits = "noise: gain of the sampled noise (default); ends: odds of ends, at the noise that the world has"
    parser.add_argument("--fit", choices=sorted(FITS), default="noise", help=fits)
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


def fit_to_lengths(
    world: World,
    fit: Fit,
    starts: Sequence[EpisodeStart],
    seed: int = 0,
    on_progress: Callable[[float, str], None] = lambda share, line: None,
) -> tuple[float, float]:
    """Fit a number by bisection and set it in ``world.networks``.

    Returns:
        The number within the fit's bounds, and the ratio of mean lengths, imagined over recorded, at it.
    """

    def ratio_at(value: float) -> float:
        networks = world.networks
        networks.config = fit.apply(networks.config, value)
        networks.heads.config = networks.config.heads
        lengths = imagined_lengths(world, starts, networks.sampler.default_steps, seed)
        return float(lengths["imagined"].mean() / lengths["real"].mean())

    low, high, value, ratio = fit.lowest, fit.highest, 1.0, float("nan")
    tried: list[tuple[float, float]] = []
    for number in range(_BISECTIONS):
        ratio = ratio_at(value)
        tried.append((abs(float(np.log(ratio))), value))
        line = f"{fit.title} {value:.3f}: lengths {ratio:.2f} of the recorded"
        on_progress((number + 1) / _BISECTIONS, line)
        low, high = (value, high) if ratio > 1 else (low, value)
        value = float(np.sqrt(low * high))
    best = min(tried)[1]
    return best, ratio_at(best)
