"""``worldsim bench``: throughput and latency of a world on this machine, and its share of the roofline."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from worldsim.bench.contention import time_contention
from worldsim.bench.determinism import check_determinism
from worldsim.bench.interfaces import env_overhead, window, world_argument
from worldsim.bench.machine import MachineLimits, machine_info
from worldsim.bench.session_ops import time_long_run, time_session_ops
from worldsim.bench.steps import BenchCase, Timing, time_steps
from worldsim.bench.wire import time_wire
from worldsim.engine.precision import DTYPES
from worldsim.engine.world import World, load
from worldsim.kernels.library import kernels_disabled
from worldsim.options import COUNT, DENOISING, NATURAL, THREADS, Number, Parser, listed
from worldsim.utils.output_paths import claim_file

__all__ = ["main"]

Result = dict[str, object]
_SESSIONS = Number(low=1, high=65_536, about="at least one session, and at most 65536")
_SECONDS = Number(whole=False, high=86_400)
"""Time of a case; 0: one step."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; with ``--json`` its last line is one JSON object."""
    args = _parser().parse_args(argv)
    if args.out:
        claim_file(args.out, replace=args.force)
    if args.threads:
        torch.set_num_threads(args.threads)
    say = Console(stderr=True).print if args.json else Console().print
    with nullcontext() if args.kernels else kernels_disabled():
        world = load(args.world, args.device, DTYPES.get(args.dtype))
        limits = MachineLimits.of(world.device)
        result = {**machine_info(world, limits), **_MEASURES[args.what](world, limits, args, say)}
    if args.json:
        print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


Say = Callable[[object], None]


def _everything(world: World, limits: MachineLimits, args: argparse.Namespace, say: Say) -> Result:
    """All measurements; ``--quick`` keeps them within four minutes on two cores."""
    seconds, name = (2.0 if args.quick else args.seconds), world_argument(world, args.world)
    few, more = (world.denoising_steps_near(steps) for steps in (1, 2))
    passes = sorted({few, more})
    say("window ...")
    seen = window(name, 200 if args.quick else 1000, more)
    cases = [BenchCase(batch=batch, denoising_steps=steps) for batch in (1, 64) for steps in passes]
    if not args.quick:
        cases += [BenchCase(batch=16, denoising_steps=more), BenchCase(batch=256, denoising_steps=few)]
        cases += [BenchCase(batch=64, denoising_steps=few, frames=False)]
        cases += [BenchCase(denoising_steps=more, context=context) for context in (16, 64, 256)]
    timings = _timed(world, limits, cases, seconds, say)
    say("sessions ...")
    session_ops = time_session_ops(world)
    run = time_long_run(world, args.long, 30.0 if args.quick else None)
    say("environment ...")
    env = env_overhead(world, 64, 4 if args.quick else 12)
    say("wire ...")
    wire = time_wire(world, name, seconds=6.0 if args.quick else 20.0)
    by_case = {(one.batch, one.denoising_steps): one for one in timings if one.frames}
    result: Result = {
        "window_fps": seen["fps"],
        "window_p50_ms": seen["p50_ms"],
        "window_p99_ms": seen["p99_ms"],
        **{f"batch64_k{steps}_fps": by_case[64, steps].frames_per_s for steps in passes},
        "roofline_share_b64": by_case[64, few].roofline_share,
        "long_run_ratio": round(run.ratio, 4),
        "long_run_frames": run.frames,
        "fork_ms": session_ops.fork_ms,
        "snapshot_restore_ms": round(session_ops.snapshot_ms + session_ops.restore_ms, 4),
        "wire64_ratio": round(wire.ratio, 4),
        "wire64_fps": wire.wire_fps,
        "wire64_p99_ms": wire.p99_ms,
        "env64_overhead_share": round(env.share, 4),
        "hardware": {
            "processor": machine_info(world, limits)["processor"],
            "threads": torch.get_num_threads(),
        },
        "sessions": asdict(session_ops),
        "cases": [asdict(one) for one in timings],
    }
    say(_metrics(result))
    return result


def _steps(world: World, limits: MachineLimits, args: argparse.Namespace, say: Say) -> Result:
    cases = [
        BenchCase(batch=batch, denoising_steps=steps, rewind_frames=args.rewind_frames)
        for batch in args.batch
        for steps in args.denoising_steps or world.allowed_denoising_steps
    ]
    return {"cases": [asdict(one) for one in _timed(world, limits, cases, args.seconds, say)]}


def _memory(world: World, limits: MachineLimits, args: argparse.Namespace, say: Say) -> Result:
    """Memory of a session; as many fit as free bytes / (state + rewind_frames x undo) bytes."""
    rows = [{"context": n, "state_bytes": world.engine(1, n).session_bytes} for n in (8, 16, 64, 256)]
    default = world.engine(1, rewind_frames=0)
    result: Result = {"context": default.context, "state_bytes": default.session_bytes, "by_context": rows}
    result["sessions_per_gb"] = 10**9 // default.session_bytes
    say(_metrics(result))
    return result


def _determinism(world: World, limits: MachineLimits, args: argparse.Namespace, say: Say) -> Result:
    """Differences between two sessions of the same seed and controls, one of them perturbed."""
    report = check_determinism(world, args.frames, name=world_argument(world, args.world))
    say(asdict(report))
    if report.fallback:
        say(report.fallback)
    return asdict(report)


def _contention(world: World, limits: MachineLimits, args: argparse.Namespace, say: Say) -> Result:
    """Environment steps beside a busy process, and of four environments in processes of their own."""
    contention = time_contention(world_argument(world, args.world), args.seconds)
    result: Result = {
        **asdict(contention),
        "busy_ratio": round(contention.busy_ratio, 3),
        "four_share": round(contention.four_share, 3),
    }
    say(_metrics(result))
    return result


_MEASURES = {
    "all": _everything,
    "step": _steps,
    "memory": _memory,
    "determinism": _determinism,
    "contention": _contention,
}


def _timed(
    world: World, limits: MachineLimits, cases: Sequence[BenchCase], seconds: float, say: Say
) -> list[Timing]:
    timings = []
    for case in cases:
        timings.append(time_steps(world, case, limits, seconds))
        one = timings[-1]
        say(f"batch {one.batch}, K {one.denoising_steps}, context {one.context}: {one.frames_per_s} frames/s")
    say(_table(timings))
    return timings


def _table(timings: Sequence[Timing]) -> Table:
    table = Table(title="engine steps", title_justify="left")
    for name in (
        "batch",
        "K",
        "context",
        "frames/s",
        "p50 ms",
        "p99 ms",
        "GFLOP/step",
        "of peak",
        "of roofline",
    ):
        table.add_column(name, justify="right")
    for one in timings:
        table.add_row(
            str(one.batch),
            str(one.denoising_steps),
            str(one.context) if one.frames else f"{one.context}, latents",
            f"{one.frames_per_s:.1f}",
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            f"{one.gflop:.2f}",
            f"{one.mfu:.1%}",
            f"{one.roofline_share:.1%}",
        )
    return table


def _metrics(result: Mapping[str, object]) -> Table:
    table = Table(title="metrics", title_justify="left", show_header=False)
    for name, value in result.items():
        if not isinstance(value, list | dict):
            table.add_row(name, str(value))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim bench", description="Measure how fast a world answers.")
    add = parser.add_argument
    add("what", nargs="?", default="all", choices=list(_MEASURES), help="the part to measure")
    add("--world", default="doom-maze", help="a shipped name or a folder")
    add("--quick", action="store_true", help="the whole in four minutes on two cores")
    add("--batch", type=listed(_SESSIONS), default="1,16,64", help="step: sessions in a batch")
    add(
        "--denoising-steps",
        type=listed(DENOISING),
        help="step: passes K, e.g. 1,2,4 (default: all that the world takes)",
    )
    add("--rewind-frames", type=NATURAL, default=0, help="step: frames kept for rewinding")
    add("--seconds", type=_SECONDS, default=5.0, help="seconds for each case")
    add("--long", type=COUNT, default=36_000, help="frames of the long run")
    add("--frames", type=COUNT, default=1000, help="determinism: frames to compare")
    add("--json", action="store_true", help="print JSON on the last line; all else goes to standard error")
    add("--out", type=Path, help="also write the JSON there")
    add("--force", action="store_true", help="replace the file --out")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--dtype", choices=DTYPES, help="(default: float32 where kernels make the frames)")
    add("--no-kernels", dest="kernels", action="store_false", help="leave all to torch")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    return parser
