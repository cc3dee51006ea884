"""``worldsim record``: record a source into a dataset, with a map of where the camera has been beside it."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from worldsim.agents.dreamer.collectors import MixedCollector, PolicyCollector, RhythmCollector
from worldsim.agents.dreamer.policy import find_policy
from worldsim.checkpoint import find_world, load_world
from worldsim.data.collector import Collector
from worldsim.data.dataset import Dataset
from worldsim.data.recorder import RecordConfig, Recording, episode_seed, record
from worldsim.data.spec import SourceSpec
from worldsim.data.video import CodecName
from worldsim.envs.coverage import Coverage
from worldsim.envs.episode_collector import EpisodeCollector
from worldsim.errors import ConfigError
from worldsim.options import COUNT, PROCESSES, SHARE, Number, Parser, frame_size, listed

__all__ = ["main"]

_AGENTS = ("behaviours", "rhythms", "dream")
_SEED = Number(high=3998)
"""Seeds of recordings; those above would play the episodes that figures are reported on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the recording is complete, 130 if it was interrupted."""
    args = _parser().parse_args(argv)
    # Environments that draw with SDL need no display and shall not look for one; workers inherit this.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    explore = _explore(args)
    make_collector = _make_collector(args, explore)
    agents = ",".join(args.agent) + (f", explore {explore:g}" if explore else "")
    cfg = RecordConfig(source=args.source, seed=args.seed, size=args.size, codec=args.codec, agents=agents)
    with _progress(args.frames) as show:
        done = record(
            make_collector,
            args.out,
            cfg,
            frames=args.frames,
            workers=args.workers,
            resume=args.resume,
            on_progress=show,
            on_open=_announce,
        )
    coverage = _draw_coverage(args) if done.episodes and done.spec.has_pose else None
    print(_summary(done, coverage, args.out))
    return 0 if done.complete else 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim record", description="Record a source into a dataset.")
    parser.add_argument(
        "source",
        help="doom-maze, take-cover, defend-the-center, health-gathering, gym:<id> for any environment with "
        "pixels, module:name of yours",
    )
    parser.add_argument("--frames", type=COUNT, default=200_000, help="frames to record")
    parser.add_argument("--workers", type=PROCESSES, default=2, help="processes that play")
    parser.add_argument("--seed", type=_SEED, default=0, help="random seed; it fixes the whole recording")
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    parser.add_argument(
        "--size", type=frame_size, help="HxW of the frames, e.g. 60x80 (default: the source's own)"
    )
    parser.add_argument(
        "--codec",
        choices=get_args(CodecName),
        default="lossless",
        help="of the video; raw: the frames as they are, larger, and read without decoding",
    )
    parser.add_argument(
        "--agent",
        type=listed(str),
        default=["behaviours"],
        help="who plays, between commas, each an equal share of the episodes: behaviours (the default), "
        "rhythms, dream (the policy of --world), or the file of a policy",
    )
    parser.add_argument("--world", help="world that a policy sees through (default: the source's own)")
    parser.add_argument(
        "--explore",
        type=SHARE,
        help="share of the episodes of rhythms and policies that random actions disturb (default: 0.5)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the recording in the folder")
    return parser


def _announce(spec: SourceSpec) -> None:
    """Say before anything is recorded what a world will see, and be steered by."""
    (height, width), keys, box = spec.size, spec.control_space.keys, spec.control_space.action
    shown = ", ".join(keys[:12]) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")
    poses = "camera poses" if spec.has_pose else "no camera poses"
    line = f"{spec.name}: frames of {height}x{width} at {spec.fps:g} fps, {poses}, keys {shown or 'none'}"
    print(line + (f", actions of {box.size} numbers" if box else ""), file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeElapsedColumn())
    bar = Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[rate]}"))
    task = bar.add_task("recording", total=total, rate="")

    def show(frames: int) -> None:
        bar.start()  # now, not before: what is refused shows no bar
        speed = bar.tasks[task].speed
        rate = f"{speed:.0f} frames/s" if speed else ""
        bar.update(task, completed=min(frames, total), rate=rate)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def _explore(args: argparse.Namespace) -> float:
    """Share of disturbed episodes: half where agents other than the behaviours play, which explore anyway.

    Raises:
        ConfigError: an unknown agent, or behaviours alone that should be disturbed.
    """
    for agent in args.agent:
        if agent not in _AGENTS and not Path(agent).is_file():
            rule = f"an agent must be one of {', '.join(_AGENTS)}, or the file of a policy"
            raise ConfigError(rule, agent, "look at the spelling, or at the path")
    if set(args.agent) == {"behaviours"}:
        if args.explore:
            rule, remedy = "behaviours explore already: nothing disturbs them", "choose --agent rhythms"
            raise ConfigError(rule, args.explore, remedy)
        return 0.0
    return 0.5 if args.explore is None else float(args.explore)


def _make_collector(args: argparse.Namespace, explore: float) -> Callable[[], Collector]:
    """A maker of a collector, in a worker's process, for the agents of the command line."""
    makers = [_maker(agent, args, explore) for agent in args.agent]
    return makers[0] if len(makers) == 1 else functools.partial(MixedCollector, makers)


def _maker(agent: str, args: argparse.Namespace, explore: float) -> Callable[[], Collector]:
    if agent == "behaviours":
        return functools.partial(EpisodeCollector, args.source, args.size)
    if agent == "rhythms":
        return functools.partial(RhythmCollector, args.source, args.size, explore=explore)
    world = args.world or args.source
    path = find_policy(world) if agent == "dream" else Path(agent)
    seen = load_world(find_world(world)).config.source
    if (seen.name, seen.size) != (args.source, args.size or seen.size):
        rule = f"a policy that plays {args.source} needs a world of it, at the size that is recorded"
        raise ConfigError(rule, (seen.name, seen.size), "name another --world, or --size")
    return functools.partial(PolicyCollector, world, path, 1, explore=explore)


def _draw_coverage(args: argparse.Namespace) -> Coverage:
    player = EpisodeCollector(args.source, args.size)
    try:
        plan = player.plan(player.source.reset(episode_seed(args.seed, 0)))
    finally:
        player.close()
    coverage = Coverage(Dataset(args.out).poses(), plan)
    coverage.save(args.out / "coverage.png")
    return coverage


def _summary(done: Recording, coverage: Coverage | None, out: Path) -> str:
    rate = done.new_frames / max(done.seconds, 1e-9)
    parts = [
        f"{done.frames} frames in {done.episodes} episodes in {out}",
        f"{done.new_frames} new at {rate:.0f} fps",
    ]
    if coverage is not None:
        parts.append(str(coverage))
    if not done.complete:
        parts.append("interrupted: --resume goes on")
    return "; ".join(parts)
