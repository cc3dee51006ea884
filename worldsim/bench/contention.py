"""Environment steps while other processes use the cores: a busy loop, or further environments.

``python -m worldsim.bench.contention WORLD SECONDS`` steps an environment and prints frames a second; torch
is imported before worldsim, as users' programs do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worldsim.errors import EngineError

_WARM_UP = 10
"""Steps that are not timed."""


@dataclass(frozen=True, slots=True)
class Contention:
    """Frames a second of environments in processes of their own."""

    alone_fps: float
    busy_fps: float
    """Frames a second beside one process that keeps a core busy."""
    four_fps: float
    """Frames a second of four environments' processes together."""

    @property
    def busy_ratio(self) -> float:
        """A step's time beside a busy process over its time alone."""
        return self.alone_fps / self.busy_fps

    @property
    def four_share(self) -> float:
        """Frames of four processes over those of one."""
        return self.four_fps / self.alone_fps


def time_contention(world: str, seconds: float = 5.0) -> Contention:
    """Time ``world``, a name or folder, alone and under contention; some 40 s on two cores.

    Raises:
        EngineError: a process failed; the value is the end of what it said.
    """
    (alone,) = _side_by_side(world, seconds, 1)
    with _busy():
        (busy,) = _side_by_side(world, seconds, 1)
    return Contention(alone, busy, sum(_side_by_side(world, seconds, 4)))


def step_for(world: str, seconds: float) -> float:
    """Frames a second of one environment stepped for ``seconds``."""
    import gymnasium

    env = gymnasium.make("worldsim:WorldsimWorld-v0", world=world, device="cpu")
    env.reset(seed=0)
    for _ in range(_WARM_UP):
        env.step(0)
    began, frames = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        env.step(frames // 8 % 3)
        frames += 1
    return frames / (time.perf_counter() - began)


def _side_by_side(world: str, seconds: float, count: int) -> list[float]:
    line = [sys.executable, "-m", "worldsim.bench.contention", world, str(seconds)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) for _ in range(count)]
    found = []
    for process in processes:
        out, error = process.communicate()
        if process.returncode:
            raise EngineError("an environment must step in a process of its own", error[-300:])
        found.append(float(out.split()[-1]))
    return found


@contextmanager
def _busy() -> Iterator[None]:
    """A process that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    import torch  # noqa: F401  # before worldsim.engine, which cannot bound its spinning any more

    print(step_for(sys.argv[1], float(sys.argv[2])))
