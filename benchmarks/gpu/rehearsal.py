"""The run with tiny sizes on a CPU, and what a GPU's minutes depend on when things go wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.collect import unpack
from benchmarks.gpu.pack import FILES, PIECE
from benchmarks.gpu.plan import RunPlan
from benchmarks.gpu.run import Run
from benchmarks.gpu.wheels import missing, weigh
from worldsim.checkpoint import load_world
from worldsim.errors import WorldsimError

__all__ = ["rehearse"]

_KILL_WITHIN = 90.0
"""Seconds in which a training that is killed must have left a world."""


def rehearse(plan: RunPlan, began: float) -> int:
    """0 where a real run may be expected to go well."""
    lacking = missing()
    print(weigh())
    problems = [f"missing: {what}" for what in lacking]
    if not Run(plan, began).run():
        problems.append("a part failed or was over its limit")
    problems += _check_files(plan.out)
    if {"record", "train"} <= set(plan.only):
        problems += _check_killed(plan)
    for problem in problems:
        print(f"rehearsal: {problem}")
    print(f"rehearsal: {'failed' if problems else 'passed'} in {time.time() - began:.0f} s")
    return 1 if problems else 0


def _check_files(out: Path) -> list[str]:
    """Check that the files can come back and can be read."""
    files = [path for path in out.iterdir() if path.is_file()]
    problems = [f"{path.name} is too large" for path in files if path.stat().st_size > PIECE]
    if len(files) > FILES:
        problems.append(f"{len(files)} files, of which {FILES} come back")
    try:
        for folder in unpack(out, out.parent / f"{out.name}-unpacked"):
            load_world(folder)
    except (WorldsimError, OSError) as error:
        problems.append(f"a world cannot be read: {error}")
    finally:
        shutil.rmtree(out.parent / f"{out.name}-unpacked", ignore_errors=True)
    return problems


def _check_killed(plan: RunPlan) -> list[str]:
    """Check that a run that is killed during training leaves a world."""
    training = plan.trainings[0]
    out = plan.scratch / "killed"
    out.mkdir()
    text = f"{training.world}:{training.recipe}:1:{','.join(training.settings)}"
    data = plan.data.get(training.world, plan.scratch / "data" / training.world)
    line = [sys.executable, "-m", "benchmarks.gpu", "--only", "train", "--device", plan.device]
    line += ["--train", text, "--data", f"{training.world}={data}", "--budget", "100"]
    line += ["--scratch", str(plan.scratch / "killed-scratch")]
    env = {**os.environ, "OUT": str(out), "WORLDSIM_BEGAN": str(time.time())}
    process = subprocess.Popen(line, env=env, start_new_session=True, stdout=subprocess.DEVNULL)
    until = time.monotonic() + _KILL_WITHIN
    while time.monotonic() < until and not list(out.glob("*.tar.00")) and process.poll() is None:
        time.sleep(0.5)
    was_running = process.poll() is None
    _kill_all(process)
    worlds = unpack(out, plan.scratch / "killed-unpacked") if out.exists() else []
    if not was_running or not worlds:
        return ["a run that was killed left no world"]
    load_world(worlds[0])
    return []


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """The run, and its parts, each of which leads a group of its own."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    for pid in (process.pid, *map(int, children.stdout.split())):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
