"""Time of ``Engine.step`` by batch size, denoising steps, context, and with or without frames."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldsim.bench.machine import MachineLimits
from worldsim.context import Context
from worldsim.controls import Control
from worldsim.engine import cuda_graphs
from worldsim.engine.engine import Engine
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.engine.session import Session
from worldsim.engine.world import World
from worldsim.kernels.library import kernels_disabled

_MIN_STEPS = 5
"""Minimum number of timed steps."""
_HOLD = 8
"""Frames for which keys are held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchCase:
    """Settings of a measurement."""

    batch: int = 1
    denoising_steps: int = 2
    """Denoising passes, K."""
    context: int | None = None
    """Frames of past; None: what the world was trained with."""
    frames: bool = True
    """False: latents alone."""
    rewind_frames: int = 0
    """Frames that each session can be rewound by."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Result of a measurement."""

    batch: int
    denoising_steps: int
    context: int
    frames: bool
    frames_per_s: float
    """Frames a second of all sessions together."""
    p50_ms: float
    """Median time of one step of the whole batch."""
    p99_ms: float
    gflop: float
    """GFLOP of one step of the whole batch: matrix products, convolutions, attention."""
    megabytes: float
    """Megabytes that one step must move: the weights once, every session's state in and out."""
    mfu: float
    """Model FLOPs utilisation: share of the machine's matmul peak."""
    roofline_share: float
    """The least time that operations and bytes allow, over the time taken."""
    timed: int
    """Number of timed steps."""


def time_steps(world: World, case: BenchCase, limits: MachineLimits, seconds: float = 5.0) -> Timing:
    """Step all sessions of a case together, for ``seconds`` and at least 5 times."""
    engine = world.engine(case.batch, case.context, case.denoising_steps, case.rewind_frames)
    return time_engine(engine, open_sessions(engine, case.batch), case, limits, seconds)


def time_engine(
    engine: Engine,
    sessions: list[Session],
    case: BenchCase,
    limits: MachineLimits,
    seconds: float,
    flops: int | None = None,
) -> Timing:
    """Measure an existing engine, e.g. in several cases with the same sessions.

    ``flops``: result of ``count_flops`` for one session's step; None: counted now.
    """
    world, controls = engine.world, held_controls(engine.world, sessions)
    engine.denoising_steps = case.denoising_steps
    flops = case.batch * (count_flops(world, case) if flops is None else flops)
    moved = _weight_bytes(world) + 2 * case.batch * engine.session_bytes
    engine.step(next(controls), frames=case.frames)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _MIN_STEPS or time.perf_counter() < until:
        chosen = next(controls)
        times.append(_seconds(engine, chosen, case.frames))
    mean = float(np.mean(times))
    p50, p99 = np.quantile(times, (0.5, 0.99)) * 1000
    return Timing(
        batch=case.batch,
        denoising_steps=case.denoising_steps,
        context=engine.context,
        frames=case.frames,
        frames_per_s=round(case.batch / mean, 2),
        p50_ms=round(float(p50), 3),
        p99_ms=round(float(p99), 3),
        gflop=round(flops / 1e9, 4),
        megabytes=round(moved / 1e6, 3),
        mfu=round(flops / mean / limits.flops, 5),
        roofline_share=round(limits.seconds(flops, moved) / mean, 5),
        timed=len(times),
    )


def open_sessions(engine: Engine, count: int) -> list[Session]:
    """Open sessions of different seeds, from the world's first start or else from a grey frame."""
    world = engine.world
    start: int | Context = 0 if world.starts else _grey(world)
    return [engine.open(seed, start) for seed in range(count)]


def held_controls(world: LoadedWorld, sessions: list[Session]) -> Iterator[Mapping[Session, Control]]:
    """Yield controls: every session holds random discrete actions for 8 frames each; always the same."""
    space, rng = world.spec.control_space, np.random.default_rng(0)
    while True:
        drawn = rng.integers(len(space.discrete_actions), size=len(sessions))
        held = {session: space.from_discrete(int(i)) for session, i in zip(sessions, drawn, strict=True)}
        for _ in range(_HOLD):
            yield held


def _seconds(engine: Engine, controls: Mapping[Session, Control], frames: bool) -> float:
    device = engine.world.device
    _wait(device)
    began = time.perf_counter()
    engine.step(controls, frames=frames)
    _wait(device)
    return time.perf_counter() - began


def count_flops(world: LoadedWorld, case: BenchCase) -> int:
    """Count the operations of one session's step; a batch of one runs in the calling thread.

    Kernels and CUDA graphs are disabled: their operations are invisible to the counter.
    """
    with kernels_disabled(), cuda_graphs.kernels_disabled():
        engine = Engine(world, 1, case.context, case.denoising_steps, 0, 0)
        session = open_sessions(engine, 1)[0]
        with FlopCounterMode(display=False) as counter:
            engine.step({session: Control()}, frames=case.frames)
    return counter.get_total_flops()


def _weight_bytes(world: LoadedWorld) -> int:
    return sum(weight.nbytes for weight in world.networks.parameters())


def _grey(world: LoadedWorld) -> Context:
    spec = world.spec
    pose = np.eye(4)[None] if world.networks.has_poses else None
    controls = np.zeros((1, spec.control_space.size), np.float32)
    return Context(np.full((1, *spec.size, 3), 128, np.uint8), controls, pose)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
