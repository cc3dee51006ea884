"""``worldsim bench step``: how fast a world answers, by batch size and number of denoising passes."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from worldsim.checkpoint import Context
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError
from worldsim.peak import matmul_peak
from worldsim.sampling.flow import check_steps

__all__ = ["Case", "bench_step", "main"]

_WARM_UP = 3
_FEWEST = 20
"""Steps that are timed at least."""
_HOLD = 8
"""Frames for which keys are held."""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch size with one K."""

    batch: int
    steps: int
    """Denoising passes, K."""
    frames_per_s: float
    """Of all sessions together."""
    p50_ms: float
    """Median time of one step of the whole batch."""
    p99_ms: float
    gflop: float
    """Of one step of the whole batch: matrix products, convolutions, attention."""
    peak_share: float
    """Of the machine's matmul peak."""
    timed: int
    """Steps that were timed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    world = load(args.world, args.device)
    peak = matmul_peak(world.device)
    cases = [
        bench_step(world, batch, steps, peak, seconds=args.seconds, history=args.history)
        for batch in args.batch
        for steps in args.steps
    ]
    result = {**_facts(world, peak, args.history), "cases": [asdict(case) for case in cases]}
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    if args.json:
        print(text)
    else:
        Console().print(_table(cases, result))
    return 0


def bench_step(
    world: World, batch: int, steps: int, peak: float, *, seconds: float = 5.0, history: int = 0
) -> Case:
    """Time ``Engine.step`` of ``batch`` sessions at K = ``steps``, for ``seconds`` and at least 20 steps.

    Args:
        world: the world.
        batch: sessions, all stepped together.
        steps: denoising passes.
        peak: FLOP/s that count as all.
        seconds: how long.
        history: frames that each session can be rewound by, as in ``World.engine``.
    """
    engine = world.engine(slots=batch, steps=steps, history=history)
    sessions = _open(engine, batch)
    controls = _controls(world, sessions)
    for _ in range(_WARM_UP):
        engine.step(next(controls))
    with FlopCounterMode(display=False) as counter:
        engine.step(next(controls))
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _FEWEST or time.perf_counter() < until:
        chosen = next(controls)
        _wait(world.device)
        began = time.perf_counter()
        engine.step(chosen)
        _wait(world.device)
        times.append(time.perf_counter() - began)
    flops, mean = counter.get_total_flops(), float(np.mean(times))
    p50, p99 = np.quantile(times, (0.5, 0.99)) * 1000
    return Case(
        batch, steps, batch / mean, float(p50), float(p99), flops / 1e9, flops / mean / peak, len(times)
    )


def _open(engine: Engine, batch: int) -> list[Session]:
    """Sessions of different seeds, from the world's first start or, where it has none, from a grey frame."""
    world = engine.world
    start: int | Context = 0 if world.starts else _grey(world)
    return [engine.open(seed, start) for seed in range(batch)]


def _grey(world: World) -> Context:
    spec = world.spec
    pose = np.eye(4)[None] if world.networks.has_poses else None
    controls = np.zeros((1, spec.control_space.size), np.float32)
    return Context(np.full((1, *spec.size, 3), 128, np.uint8), controls, pose)


def _controls(world: World, sessions: list[Session]) -> Iterator[Mapping[Session, Control]]:
    """Every session holds a discrete action for a while, then another; always the same ones."""
    space, rng = world.spec.control_space, np.random.default_rng(0)
    while True:
        drawn = rng.integers(len(space.combos), size=len(sessions))
        held = {session: space.from_discrete(int(i)) for session, i in zip(sessions, drawn, strict=True)}
        for _ in range(_HOLD):
            yield held


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _facts(world: World, peak: float, history: int) -> dict[str, object]:
    """What the figures depend on."""
    return {
        "world": world.name,
        "digest": world.digest,
        "size": list(world.spec.size),
        "params": world.params,
        "device": str(world.device),
        "processor": _processor(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "history": history,
        "peak_tflops": peak / 1e12,
    }


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _table(cases: Sequence[Case], facts: Mapping[str, object]) -> Table:
    caption = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "cases")
    table = Table(
        title=f"steps of {facts['world']}", caption=caption, title_justify="left", caption_justify="left"
    )
    for name in ("batch", "K", "frames/s", "p50 ms", "p99 ms", "GFLOP/step", "of peak"):
        table.add_column(name, justify="right")
    for case in cases:
        table.add_row(
            str(case.batch),
            str(case.steps),
            f"{case.frames_per_s:.1f}",
            f"{case.p50_ms:.1f}",
            f"{case.p99_ms:.1f}",
            f"{case.gflop:.2f}",
            f"{case.peak_share:.1%}",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="worldsim bench", description="Measure how fast a world answers.")
    parser.add_argument("what", choices=["step"], help="what to time: Engine.step")
    parser.add_argument("--world", default="doom-maze", help="a shipped name or a folder (%(default)s)")
    parser.add_argument(
        "--batch", type=_numbers, default=[1, 16, 64], help="sessions, e.g. 1,16,64 (default)"
    )
    parser.add_argument(
        "--steps", type=_passes, default=[1, 2, 4], help="denoising passes K, e.g. 1,2,4 (default)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each case (%(default)s)")
    parser.add_argument("--history", type=int, default=0, help="frames kept for rewinding (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    return parser


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ConfigError("a batch must have at least one session", text)
    return numbers


def _passes(text: str) -> list[int]:
    return [check_steps(int(part)) for part in text.split(",")]
