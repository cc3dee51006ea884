"""kill -9 at random points: nothing acknowledged is lost or done twice, every frame is as if undisturbed.

First of a server that is one process, then of engines behind a router, and of the router itself.
"""

from __future__ import annotations

import functools
import operator
import random
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.stress.oracle import RefusedError, SessionTrace, StressCounts, count_mismatches, step_together
from benchmarks.stress.raw_client import NoReplyError, RawClient
from benchmarks.stress.server_process import ServerUnderTest

__all__ = ["run", "run_replicas"]

CLIENTS, SESSIONS = 4, 8
"""32 sessions in total."""
ENGINES = 2
TIMEOUT = 600.0
"""Seconds: a machine that does other things, too, may take long to start a server."""


class _KilledClient(threading.Thread):
    """Client thread that steps its sessions until stopped, whatever happens to the server."""

    def __init__(self, number: int, address: str) -> None:
        super().__init__(daemon=True)
        self.rng = random.Random(number)
        self.address, self.counts = address, StressCounts()
        self.traces = [SessionTrace(seed=100 * number + i, observed_share=0.05) for i in range(SESSIONS)]
        self.opened, self.ended, self.server_died = (threading.Event() for _ in range(3))

    def run(self) -> None:
        client = RawClient(self.address, timeout=TIMEOUT)
        try:
            client.hello()
            for trace in self.traces:
                trace.open(client)
            self.opened.set()
            while not self.ended.is_set():
                self._step_sessions(client)
            for trace in self.traces:
                trace.send_next(client, self.rng)
        except (RefusedError, NoReplyError) as error:
            self.counts.refused.append(f"{type(error).__name__}: {error}")
            self.opened.set()
        finally:
            client.close()

    def _step_sessions(self, client: RawClient) -> None:
        if self.server_died.is_set():
            self.server_died.clear()
            known = client.hello()["sessions"]
            for trace in self.traces:
                trace.check_seq(known, self.counts)
        if self.rng.random() < 0.2:
            self.rng.choice(self.traces).send_next(client, self.rng)
        else:
            step_together(self.traces, client, self.rng)


class _KilledClients:
    """All clients of one server.

    Args:
        address: of its data socket.
        first: number of the first of them, which their sessions' seeds follow from.
    """

    def __init__(self, address: str, first: int) -> None:
        self._all = [_KilledClient(first + number, address) for number in range(CLIENTS)]
        for worker in self._all:
            worker.start()
        for worker in self._all:
            worker.opened.wait(TIMEOUT)

    def wait(self, steps: int, timeout: float = 20.0) -> None:
        """Wait until so many more steps are acknowledged."""
        end, goal = time.monotonic() + timeout, self.steps + steps
        while self.steps < goal and time.monotonic() < end:
            time.sleep(0.002)

    def notify_killed(self) -> None:
        """Tell the clients of a kill: they check their sessions at the next reply."""
        for worker in self._all:
            worker.server_died.set()

    def end(self) -> None:
        """Let each client step once more, and stop."""
        for worker in self._all:
            worker.ended.set()
        for worker in self._all:
            worker.join(TIMEOUT)

    @property
    def steps(self) -> int:
        return sum(trace.seq for worker in self._all for trace in worker.traces)

    def counts(self, world: Path, denoising_steps: int, rewind_frames: int) -> dict[str, Any]:
        """Return the counts, comparing all acknowledged frames with those of an undisturbed engine."""
        traces = [trace for worker in self._all for trace in worker.traces if trace.hashes]
        all_counts = [worker.counts for worker in self._all]
        return {
            "kill_sessions": len(traces),
            "kill_steps": self.steps,
            "lost_steps": sum(counts.lost_steps for counts in all_counts),
            "duplicate_steps": sum(counts.duplicate_steps for counts in all_counts),
            "hash_mismatches": count_mismatches(world, traces, denoising_steps, rewind_frames),
            "refused": functools.reduce(operator.iadd, (counts.refused for counts in all_counts), []),
            "stuck": sum(worker.is_alive() for worker in self._all),
        }


def run(
    folder: Path, world: Path, kills: int, denoising_steps: int = 1, rewind_frames: int = 16
) -> dict[str, Any]:
    """Kill a server with 32 active sessions ``kills`` times, sometimes while it starts.

    Returns:
        counts: ``kills``, ``lost_steps``, ``duplicate_steps``, ``hash_mismatches``, ``refused``, ..
    """
    server = _server(folder, world, "kills", denoising_steps, rewind_frames)
    rng, recoveries, crashes = random.Random(1), [], 0
    server.start(TIMEOUT)
    workers = _KilledClients(server.address, 0)
    for _ in range(kills):
        workers.wait(rng.randint(0, 600))
        time.sleep(rng.uniform(0.0, 0.02))
        crashes += not server.alive
        server.kill()
        if rng.random() < 0.15:
            server.launch()
            time.sleep(rng.uniform(0.2, 3.0))
            server.kill()
        workers.notify_killed()
        recoveries.append(server.start(TIMEOUT))
    workers.end()
    server.stop()
    found = workers.counts(world, denoising_steps, rewind_frames)
    return {
        "kills": kills,
        "crashes": crashes,
        **found,
        "recovery_s_max": round(max(recoveries, default=0), 2),
    }


def run_replicas(
    folder: Path, world: Path, kills: int, denoising_steps: int = 1, rewind_frames: int = 16
) -> dict[str, Any]:
    """Kill engines behind a router ``kills`` times, also during start or failover; then the router.

    Returns:
        counts: as ``run``, with ``engine_kills`` and, a quarter as many, ``router_kills``.
    """
    server = _server(folder, world, "replicas", denoising_steps, rewind_frames, "--replicas", str(ENGINES))
    rng = random.Random(2)
    routers, crashes, killed = kills // 4, 0, 0
    server.start(TIMEOUT)
    _wait_for_replicas(server)
    workers = _KilledClients(server.address, CLIENTS)
    while killed < kills:
        workers.wait(rng.randint(0, 400))
        killed += server.kill_engine(rng)
        workers.notify_killed()
        crashes += not server.alive
        if rng.random() < 0.7:
            _wait_for_replicas(server)
        else:
            time.sleep(rng.uniform(0.0, 5.0))
    for _ in range(routers):
        _wait_for_replicas(server)
        workers.wait(rng.randint(0, 400))
        crashes += not server.alive
        server.kill()
        workers.notify_killed()
        server.start(TIMEOUT)
    workers.end()
    server.stop()
    found = workers.counts(world, denoising_steps, rewind_frames)
    return {"engine_kills": killed, "router_kills": routers, "crashes": crashes, **found}


def _server(
    folder: Path, world: Path, name: str, denoising_steps: int, rewind_frames: int, *more: str
) -> ServerUnderTest:
    # A machine that is stopped for a while must not be taken for a client that is gone.
    options = [
        "--journal",
        str(folder / f"{name}-state"),
        "--slots",
        str(CLIENTS * SESSIONS),
        "--lease-ttl",
        "600",
    ]
    options += ["--denoising-steps", str(denoising_steps), "--rewind-frames", str(rewind_frames), *more]
    return ServerUnderTest(world, f"ipc://{folder}/{name}.sock", options, folder / f"{name}.log")


def _wait_for_replicas(server: ServerUnderTest) -> None:
    """Wait until all engines behind a router are ready."""
    client = RawClient(server.address, timeout=TIMEOUT)
    end = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < end:
            reply = client.ask("info", kind="control")
            if reply.header["replicas"] == ENGINES:
                return
            time.sleep(0.1)
    finally:
        client.close()
    raise NoReplyError("engines")
