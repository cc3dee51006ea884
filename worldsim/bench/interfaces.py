"""Overhead of window and environments over the engine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldsim.bench.steps import held_controls, open_sessions
from worldsim.engine.world import World
from worldsim.errors import EngineError, install


def window(world: str, frames: int, denoising_steps: int) -> dict[str, object]:
    """Return metrics of ``worldsim play --headless`` in a process of its own: fps, p50_ms, p99_ms, ...

    Raises:
        EngineError: it failed; the value is the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "worldsim.cli", "play", "--world", world, "--headless", "--json"]
        line += ["--frames", str(frames), "--denoising-steps", str(denoising_steps), "--fps", "0"]
        done = subprocess.run(line, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise EngineError("the window must run", done.stderr[-300:], install("play"))
    metrics: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return metrics


@dataclass(frozen=True, slots=True)
class EnvOverhead:
    """Milliseconds a step of the whole batch, medians."""

    batch: int
    env_ms: float
    engine_ms: float

    @property
    def share(self) -> float:
        """Share of the environment's time that is not the engine's."""
        return 1 - self.engine_ms / self.env_ms


def env_overhead(world: World, batch: int, repeats: int = 12) -> EnvOverhead:
    """Time ``ImaginedVectorEnv.step`` and ``Engine.step`` in turns, with the same batch, at K = 1."""
    from worldsim.envs.vector import ImaginedVectorEnv

    denoising_steps = world.denoising_steps_near(1)
    env = ImaginedVectorEnv(batch, world=world, actions="discrete", denoising_steps=denoising_steps)
    env.reset(seed=0)
    engine = world.engine(batch, denoising_steps=denoising_steps, rewind_frames=0)
    controls = held_controls(world, open_sessions(engine, batch))
    actions = np.zeros(batch, np.int64)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        began = time.perf_counter()
        env.step(actions)
        between = time.perf_counter()
        engine.step(next(controls))
        times[0].append(between - began)
        times[1].append(time.perf_counter() - between)
    env.close()
    env_ms, engine_ms = (float(np.median(part)) * 1000 for part in times)
    return EnvOverhead(batch, env_ms, engine_ms)


def world_argument(world: World, given: str) -> str:
    """Return the name or folder with which another process loads this world."""
    return str(Path(given).resolve()) if Path(given).is_dir() else world.name
