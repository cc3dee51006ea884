"""``worldsim eval``: a world held against its source's own frames.

The source is deterministic: from the same seed and under the same controls it shows what the world
should have imagined. Its episodes come from seeds that neither training nor starts ever use.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from worldsim.data.collector import Collector
from worldsim.data.video import require_av
from worldsim.engine.precision import DTYPES
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError
from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.compare import comparison, read_report
from worldsim.evaluation.detector import find_detector
from worldsim.evaluation.episode_lengths import EPISODE_FRAMES
from worldsim.evaluation.idm.model import InverseDynamicsModel, find_idm
from worldsim.evaluation.open_collector import open_collector
from worldsim.evaluation.page.examples import example_rollouts
from worldsim.evaluation.page.page import PAGE, page_of
from worldsim.evaluation.suite import CONTEXT, FULL, LONG, QUICK, SHORT, EvalConfig, Report, evaluate
from worldsim.evaluation.table import table_of
from worldsim.evaluation.trajectories import MOST_SKIPPED, RUNS
from worldsim.evaluation.videos import SHEET, VIDEO_FRAMES, write_videos
from worldsim.evaluation.whole_episodes import EpisodeTools
from worldsim.options import COUNT, DENOISING, PROCESSES, TEMPERATURE, THREADS, Number, Parser
from worldsim.sampling.protocol import check_denoising_steps
from worldsim.utils.output_paths import claim_folder
from worldsim.utils.progress import ProgressReporter

__all__ = ["main"]

_SEED = Number(high=RUNS - 1)
"""Reporting runs."""
_GAMES = 10
"""Real games that a policy plays side by side."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    if bool(args.compare) == bool(args.world):
        raise ConfigError(
            "eval needs one world, or --compare with two", args.world, "worldsim eval doom-maze"
        )
    if args.policies:
        return _rank(args)
    if args.compare:
        if args.out or args.videos:
            raise ConfigError("a comparison has no page and no videos", None, "leave --out and --videos out")
        found = [read_report(Path(it)) if Path(it).is_file() else _compared(it, args) for it in args.compare]
        print(json.dumps(found, indent=1)) if args.json else Console().print(comparison(*found))
        return 0
    _claim(args)
    with _opened(args.world, args) as (world, collector, config):
        report, settings = _measure(world, collector, config, args)
        if args.json:
            print(json.dumps(_report_json(report, settings), indent=1), flush=True)
        else:
            Console().print(table_of(report.metrics, settings))
        _write(world, collector, report, settings, args)
    return 0


def _rank(args: argparse.Namespace) -> int:
    """Compare the scores that policies have in the world with those in its source."""
    if args.compare or args.out or args.videos or args.agent:
        rule = "a ranking of policies has one world, no page, no videos and no other agent"
        raise ConfigError(rule, None, "leave --compare, --out, --videos and --agent out")
    from worldsim.agents.dreamer import policy_ranking  # agents lie above; they play both

    return policy_ranking.run(args)


def _claim(args: argparse.Namespace) -> None:
    """Claim outputs and packages before hours of measuring."""
    if args.out or args.videos:
        require_av()
    if args.out:
        claim_folder(args.out, [PAGE], replace=args.force)
    if args.videos:
        claim_folder(args.videos, [SHEET], replace=args.force)


@contextmanager
def _opened(name: str, args: argparse.Namespace) -> Iterator[tuple[World, Collector, EvalConfig]]:
    """A world, a collector of its source and how much to measure."""
    world = load(name, args.device, DTYPES.get(args.dtype))
    horizon = args.horizon or (SHORT if world.networks.scene is None else QUICK.horizon)
    config = replace(QUICK if args.quick else FULL, horizon=horizon)
    if args.trajectories:
        config = replace(config, trajectories=args.trajectories)
    frames = _longest(config, args, world.spec.fps) + MOST_SKIPPED
    moves = world.networks.scene is None
    longest = max(frames, EPISODE_FRAMES) if moves else frames
    if args.agent:
        collector = _policy_collector(name, args.agent, longest)
    else:
        collector = open_collector(world, longest, labels=moves)
    try:
        yield world, collector, config
    finally:
        collector.close()


def _policy_collector(world: str, agent: str, frames: int) -> Collector:
    """A collector whose episodes are played by a policy: "dream" (the world's own) or a file."""
    # Agents lie above and need what plays the source: imported only where one plays.
    from worldsim.agents.dreamer.collectors import PolicyCollector
    from worldsim.agents.dreamer.policy import find_policy

    path = find_policy(world) if agent == "dream" else Path(agent)
    return PolicyCollector(world, path, _GAMES, frames)


def _measure(
    world: World, collector: Collector, config: EvalConfig, args: argparse.Namespace
) -> tuple[Report, dict[str, object]]:
    """Measure a world; the metrics, and what they depend on."""
    began = time.monotonic()
    threads = args.threads or torch.get_num_threads()
    workers = threads if world.device.type == "cpu" else 1
    with ProgressReporter("measuring", 1.0) as reporter, _torch_threads(threads // workers):
        report = evaluate(
            world,
            collector,
            config,
            simulator=getattr(collector, "source", None),
            tools=_moving(world, collector),
            idm=InverseDynamicsModel.load(args.idm) if args.idm else find_idm(world.spec),
            baselines=tuple(map(Baseline.load, args.baseline)),
            denoising_steps=args.denoising_steps,
            seed=args.seed,
            workers=workers,
            on_progress=reporter.update,
        )
    for part, reason in report.failures.items():
        print(f"not measured: {part}: {reason}", file=sys.stderr)
    seconds = round(time.monotonic() - began, 1)
    steps = check_denoising_steps(world.networks.sampler, args.denoising_steps)
    settings = _settings(world, report, steps, args.seed)
    settings |= {"agent": args.agent} if args.agent else {}
    return report, {**settings, "threads": threads, "seconds": seconds}


def _moving(world: World, collector: Collector) -> EpisodeTools | None:
    """Return the tools for objects and episode lengths, for worlds without a static scene."""
    if world.networks.scene is not None:
        return None
    return EpisodeTools(find_detector(collector), getattr(collector, "open_loop_controls", None))


def _compared(name: str, args: argparse.Namespace) -> dict[str, object]:
    """Evaluate a world and return the JSON of ``--json``."""
    with _opened(name, args) as (world, collector, config):
        return _report_json(*_measure(world, collector, config, args))


def _report_json(report: Report, settings: Mapping[str, object]) -> dict[str, object]:
    metrics = {key: asdict(metric) for key, metric in report.metrics.items()}
    return {**settings, "failures": dict(report.failures), "metrics": metrics}


def _write(
    world: World, collector: Collector, report: Report, settings: dict[str, object], args: argparse.Namespace
) -> None:
    """Write the page and the videos: after the metrics, which are told even where these cannot be kept."""
    if args.out and "true.psnr" in report.scores:
        page = page_of(
            report,
            settings,
            world.spec.control_space.keys,
            example_rollouts(world, collector, report, args.denoising_steps),
        )
        (args.out / PAGE).write_text(page, encoding="utf-8")
    if args.videos:
        write_videos(world, collector, args.videos, denoising_steps=args.denoising_steps, seed=args.seed)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="worldsim eval", description="Evaluate a world against its environment's own frames."
    )
    parser.add_argument("world", nargs="?", help="a shipped world's name, or a folder")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two worlds, or files that --json printed, side by side",
    )
    config = parser.add_mutually_exclusive_group()
    config.add_argument("--full", action="store_true", help="all of it, under forty minutes (the default)")
    config.add_argument(
        "--quick", action="store_true", help=f"{QUICK.trajectories} trajectories, not {FULL.trajectories}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--denoising-steps",
        type=DENOISING,
        help="denoising passes a frame, K, of those that the world takes (default: the sampler's)",
    )
    parser.add_argument(
        "--seed", type=_SEED, default=0, help="which reporting run; each has its own episodes"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="also write DIR/index.html, a page to look at"
    )
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="also write videos, rollout | source, and a contact sheet"
    )
    parser.add_argument("--force", action="store_true", help="replace what is in --out and --videos")
    parser.add_argument(
        "--horizon",
        type=COUNT,
        help=f"frames of the rollouts ({QUICK.horizon}, or {SHORT} where no static scene fixes what is seen)",
    )
    parser.add_argument(
        "--agent",
        help="episodes of this policy, not of the recording behaviour: a policy's file, or dream, the one "
        "shipped with the world; objects, lengths of episodes and tasks are then left out",
    )
    parser.add_argument("--trajectories", type=COUNT, help="episodes to score (default: by --quick, --full)")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="of `worldsim baseline`, to compare with",
    )
    parser.add_argument("--idm", type=Path, metavar="FILE", help="of `worldsim train-idm` (default: shipped)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--dtype", choices=DTYPES, help="(default: what is faster on the device)")
    parser.add_argument(
        "--threads", type=THREADS, help="CPU threads; metrics do not depend on them (default: all)"
    )
    _add_policy_options(parser)
    return parser


def _add_policy_options(parser: argparse.ArgumentParser) -> None:
    """Options of the ranking of policies, instead of all metrics."""
    add = parser.add_argument_group("scores of policies, imagined and real").add_argument
    add(
        "--policies",
        nargs="+",
        metavar="POLICY",
        help="compare scores in the dream with real ones: builtin, random, still, rhythm-24, ..., files or "
        "folders of policies, broken:FILE",
    )
    add("--temperature", type=TEMPERATURE, default=1.0, help="of the dream: factor of its noise")
    add("--episodes", type=COUNT, default=50, help="real episodes of each policy")
    add("--episode", type=COUNT, default=1050, help="frames of an episode at most")
    add("--dreams", type=PROCESSES, default=64, help="dreams of each policy")
    add("--games", type=PROCESSES, default=10, help="real games side by side")


def _longest(config: EvalConfig, args: argparse.Namespace, fps: float) -> int:
    """Return the length of the longest episode that is needed."""
    videos = VIDEO_FRAMES if args.videos else 0
    out = round(max(config.tasks.seconds) * fps / 2) if config.tasks.loops else 0
    return CONTEXT + max(
        config.horizon, config.teacher_forced_frames, videos, out, LONG if config.long_trajectories else 0
    )


def _settings(world: World, report: Report, denoising_steps: int, seed: int) -> dict[str, object]:
    """Return all settings that the metrics depend on."""
    return {
        "world": world.name,
        "weights_sha256": world.weights_sha256,
        "params": world.params,
        "source": world.spec.name,
        "size": list(world.spec.size),
        "fps": world.spec.fps,
        "tics": world.spec.tics,
        "denoising_steps": denoising_steps,
        "context": CONTEXT,
        "trajectories": len(report.seeds),
        "next_frames": report.scored,
        "seed": seed,
        "length": report.length,
        "episodes": [min(report.seeds), max(report.seeds)] if report.seeds else [],
        "device": str(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
    }


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Set the threads of torch operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
