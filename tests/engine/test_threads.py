"""Threads and processes: calls from several threads, forked children, and cores that others keep busy."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from tests.engine.walks import control, walk
from tests.kernels.compare import threads
from worldsim.engine.engine import Engine
from worldsim.engine.thread_tuner import ThreadTuner
from worldsim.engine.world import World

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def frames(engine: Engine, seed: int, count: int) -> list[bytes]:
    session = engine.open(seed, 0)
    told = [step.frame.tobytes() for step in walk(session, count)]
    session.close()
    return told


@pytest.mark.parametrize("slots", [6, 2])
def test_threads_that_share_an_engine_get_their_own_frames(world: World, slots: int) -> None:
    """With fewer slots than threads sessions are offloaded and come back between others' steps."""
    alone = world.engine(1, rewind_frames=0)
    true = [frames(alone, seed, 6) for seed in range(6)]
    offload_bytes = (6 - slots) * alone.session_bytes
    shared = world.engine(slots, rewind_frames=4, offload_bytes=offload_bytes)
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda seed: frames(shared, seed, 6), range(6)))
    assert told == true


def test_a_session_that_threads_rewind_and_step_stays_whole(world: World) -> None:
    session = world.engine(1, rewind_frames=8).open(0, 0)
    first = session.index

    def there_and_back(_: int) -> None:
        with session.engine.lock:
            session.step(control(0))
            session.rewind()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(there_and_back, range(12)))
    assert session.index == first


def _dream(pipe: Connection, engine: Engine, inherited: bool) -> None:
    used = engine if inherited else engine.world.engine(2, rewind_frames=0)
    pipe.send((torch.get_num_threads(), frames(used, 3, 2)))


@forks
@pytest.mark.parametrize("inherited", [True, False])
def test_a_forked_child_dreams_on_one_thread(world: World, inherited: bool) -> None:
    with threads(2):
        engine = world.engine(2, rewind_frames=0)
        true = frames(engine, 3, 2)
        torch.ones(1 << 20).add_(1)  # torch has threads now that the child will not have
        pair = [engine.open(seed, 0) for seed in range(2)]
        engine.step({session: control(0) for session in pair})
        for session in pair:
            session.close()
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_dream, args=(theirs, engine, inherited))
        with engine.lock:
            child.start()
        assert ours.poll(60), "the child hangs"
        assert ours.recv() == (1, true)
        child.join(60)
        assert child.exitcode == 0


@pytest.mark.slow
@forks
def test_forked_environments_step(folder: Path) -> None:
    """Gymnasium forks after its process has made an environment of its own."""
    program = f"""
import gymnasium, numpy, torch, worldsim
torch.set_num_threads(2)
torch.ones(1 << 20).add_(1)
envs = gymnasium.make_vec(
    "worldsim:WorldsimWorld-v0", 2, vectorization_mode="async", world={str(folder)!r}
)
envs.reset(seed=0)
print(envs.step(numpy.zeros(2, numpy.int64))[0].shape)
envs.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert "(2, 60, 80, 3)" in done.stdout, done.stderr[-500:]


class Machine:
    """Seconds that a step takes by threads, with and without others."""

    def __init__(self) -> None:
        self.seconds = {1: 0.017, 2: 0.010}
        self.tuner, self.spent = ThreadTuner(2), 0.0

    def step(self, count: int) -> list[int]:
        picked = []
        for _ in range(count):
            picked.append(self.tuner.choose())
            self.tuner.record(picked[-1], self.seconds[picked[-1]])
            self.spent += self.seconds[picked[-1]]
        return picked


def test_a_crew_is_all_threads_while_they_are_quick() -> None:
    picked = Machine().step(1000)
    assert picked.count(1) <= 4
    assert set(picked[-200:]) <= {1, 2}


@pytest.mark.parametrize("crowded", [0.05, 1.2])
def test_a_crew_gets_by_on_one_thread_while_others_keep_cores_busy(crowded: float) -> None:
    machine = Machine()
    machine.step(20)
    machine.seconds[2], machine.spent = crowded, 0.0
    machine.step(2000)
    assert machine.spent < 2000 * 0.017 * 1.08 + 3 * crowded
    machine.seconds[2] = 0.010
    machine.step(3000)
    assert machine.step(10).count(2) >= 9


def test_a_crew_of_tiny_steps_is_one_thread_where_that_is_as_quick() -> None:
    machine = Machine()
    machine.seconds = {1: 0.002, 2: 0.004}
    assert machine.step(500).count(2) < 30


@pytest.mark.slow
def test_importing_lets_openmp_s_threads_sleep_soon() -> None:
    program = "import os, worldsim; print(os.environ.get('GOMP_SPINCOUNT'))"
    given = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    wishes = ({}, "10000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")
    for more, told in wishes:
        line = [sys.executable, "-c", program]
        done = subprocess.run(line, env={**given, **more}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == told
