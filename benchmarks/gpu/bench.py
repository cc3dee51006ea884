"""Steps and environments on a GPU: by batch, denoising passes, with and without frames, graphs on and off.

Rows that matter most come first, and each is written when it is done: whoever is out of time has these.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.untrained import load_or_initialise
from worldsim.bench.machine import MachineLimits, machine_info
from worldsim.bench.steps import BenchCase, count_flops, open_sessions, time_engine
from worldsim.engine import cuda_graphs
from worldsim.engine.world import World
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.options import PROCESSES, SECONDS, Parser

Row = dict[str, object]


def main() -> int:
    """Measure until the seconds are over; 1 where a row failed."""
    args = _parser().parse_args()
    until = time.monotonic() + args.seconds
    world, is_trained = load_or_initialise(args.world, args.device)
    limits = MachineLimits.of(world.device)
    report: dict[str, object] = {
        **machine_info(world, limits),
        "trained": is_trained,
        "rows": [],
        "failed": [],
    }
    batches, each = ((1, 3), 0.1) if args.quick else (tuple(args.batch), args.each)
    rows = itertools.chain(
        _steps(world, limits, batches, each, with_graphs=True),
        _environments(world, batches, each, with_graphs=True),
        _steps(world, limits, batches, each, with_graphs=False),
        _environments(world, batches, each, with_graphs=False),
    )
    for row in rows:
        kind = "failed" if "error" in row else "rows"
        report[kind] = [*report[kind], row]  # type: ignore[misc]
        print(json.dumps(row), flush=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        if time.monotonic() > until:
            print("out of time: the rest is left out", flush=True)
            break
    return 1 if report["failed"] or not report["rows"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--world", default="doom-maze")
    add("--device", default="cuda")
    add("--out", type=Path, required=True)
    add("--seconds", type=SECONDS, default=100, help="for all rows")
    add("--each", type=SECONDS, default=0.8, help="for one row")
    add("--batch", type=PROCESSES, nargs="+", default=[1, 256, 64, 1024])
    add("--quick", action="store_true")
    return parser


def _steps(
    world: World, limits: MachineLimits, batches: tuple[int, ...], seconds: float, *, with_graphs: bool
) -> Iterator[Row]:
    """Steps of an engine: K of 2 and 1, with frames and without."""
    for batch in batches:
        about: Row = {"what": "engine", "graphs": with_graphs, "batch": batch}
        try:
            with _graphs(with_graphs):
                few, more = (world.denoising_steps_near(steps) for steps in (1, 2))
                engine = world.engine(batch, denoising_steps=more, rewind_frames=0)
                sessions = open_sessions(engine, batch)
                for frames, steps in itertools.product((True, False), sorted({few, more}, reverse=True)):
                    case = BenchCase(batch=batch, denoising_steps=steps, frames=frames)
                    timing = time_engine(engine, sessions, case, limits, seconds, count_flops(world, case))
                    yield {**about, **asdict(timing)}
        except Exception as error:
            yield {**about, "error": f"{type(error).__name__}: {error}"[:500]}


def _environments(
    world: World, batches: tuple[int, ...], seconds: float, *, with_graphs: bool
) -> Iterator[Row]:
    """Steps of vector environments, which are tensors throughout; resets of episodes that end included."""
    passes = sorted({world.denoising_steps_near(steps) for steps in (1, 2)})
    for batch, steps in itertools.product(batches, passes):
        about: Row = {"what": "vector env", "graphs": with_graphs, "batch": batch, "denoising_steps": steps}
        try:
            with _graphs(with_graphs):
                env = ImaginedVectorEnv(
                    batch, world=world, actions="discrete", denoising_steps=steps, max_episode_steps=500
                )
                yield {**about, **_time_env(env, seconds)}
                env.close()
        except Exception as error:
            yield {**about, "error": f"{type(error).__name__}: {error}"[:500]}


def _time_env(env: ImaginedVectorEnv, seconds: float) -> Row:
    device, rng = env.device, np.random.default_rng(0)
    count = int(env.single_action_space.n)  # type: ignore[attr-defined]
    drawn = [torch.from_numpy(rng.integers(count, size=env.num_envs)).to(device) for _ in range(16)]
    began = time.perf_counter()
    env.reset(seed=0)
    _wait(device)
    reset = time.perf_counter() - began
    for actions in drawn[:3]:
        env.step(actions)
    _wait(device)
    began, times = time.perf_counter(), []
    while time.perf_counter() - began < seconds:  # waited for after each: how long one step takes
        before = time.perf_counter()
        env.step(drawn[len(times) % 16])
        _wait(device)
        times.append(time.perf_counter() - before)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:  # not waited for: how many there are in a second
        env.step(drawn[done % 16])
        done += 1
        if done % 16 == 0:
            _wait(device)
    _wait(device)
    p50, p99 = np.quantile(times, (0.5, 0.99)) * 1000
    return {
        "env_steps_per_s": round(env.num_envs * done / (time.perf_counter() - began), 1),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "reset_s": round(reset, 3),
        "timed": len(times) + done,
    }


@contextlib.contextmanager
def _graphs(are_on: bool) -> Iterator[None]:
    with contextlib.nullcontext() if are_on else cuda_graphs.kernels_disabled():
        yield


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
