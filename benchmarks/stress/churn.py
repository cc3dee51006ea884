"""Churn of clients and sessions: memory, open files and used slots must not grow."""

from __future__ import annotations

import functools
import operator
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stress.oracle import RefusedError, SessionTrace, step_together
from benchmarks.stress.raw_client import NoReplyError, RawClient, new_name
from benchmarks.stress.server_process import ServerUnderTest

__all__ = ["run"]

CLIENTS, SESSIONS = 3, 8
TIMEOUT = 600.0
"""Seconds: a machine that is stopped for a while is no fault of the server's."""


class _VisitingClients(threading.Thread):
    """Client thread that connects, opens, steps and forks sessions, and disconnects, again and again."""

    def __init__(self, address: str, number: int, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self.address, self.ended = address, ended
        self.rng = random.Random(number)
        self.steps = self.visits = self.opened = 0
        self.refused: list[str] = []

    def run(self) -> None:
        while not self.ended.is_set():
            client = RawClient(self.address, timeout=TIMEOUT)
            try:
                self._visit(client)
            except (RefusedError, NoReplyError) as error:
                self.refused.append(f"{type(error).__name__}: {error}")
            finally:
                client.close()
            self.visits += 1

    def _visit(self, client: RawClient) -> None:
        client.hello()
        traces = [SessionTrace(seed=self.rng.getrandbits(32)) for _ in range(SESSIONS)]
        for trace in traces:
            trace.open(client)
        for _ in range(20):
            step_together(traces, client, self.rng)
        child = new_name()
        parent = traces[0]
        client.ask("fork", session=parent.name, children=[child], seq=parent.seq)
        blob = client.ask("snapshot", session=parent.name).payloads[0]
        copy = new_name()
        client.ask("restore", [blob], session=copy)
        for name in (*(trace.name for trace in traces), child, copy):
            client.ask("close", session=name)
        self.steps += 20 * SESSIONS
        self.opened += SESSIONS + 2


def run(
    folder: Path, world: Path, seconds: float, steps: int = 10**9, journal: bool = True
) -> dict[str, Any]:
    """Run churn for ``seconds``, or for ``steps`` if that is sooner; the first half is warm-up.

    Returns:
        counts: ``churn_steps``, ``churn_sessions``, ``memory_mb_per_h``, ``fd_growth``, ``sessions_left``, ..
    """
    address = f"ipc://{folder}/churn.sock"
    state = ["--journal", str(folder / "churned")] if journal else []
    options = [
        "--slots",
        str(2 * CLIENTS * (SESSIONS + 2)),
        "--denoising-steps",
        "1",
        "--lease-ttl",
        "240",
        *state,
    ]
    with ServerUnderTest(world, address, options, folder / "churn.log") as server:
        ended = threading.Event()
        visitors = [_VisitingClients(address, number, ended) for number in range(CLIENTS)]
        for one in visitors:
            one.start()
        rows = _watch(server, seconds, lambda: sum(one.steps for one in visitors) >= steps)
        ended.set()
        for one in visitors:
            one.join(TIMEOUT)
        client = RawClient(address)
        info = client.ask("info", kind="control").header
        client.close()
        crashed = not server.alive
    times, memory, files = np.array([row for row in rows if row[0] > rows[-1][0] / 2]).T
    slope, spread = _slope(times, memory)
    first, last = slice(len(times) // 4), slice(-(len(times) // 4), None)
    return {
        "crashes": int(crashed),
        "churn_s": round(rows[-1][0]),
        "churn_steps": sum(one.steps for one in visitors),
        "churn_steps_per_s": round(sum(one.steps for one in visitors) / rows[-1][0]),
        "churn_sessions": sum(one.opened for one in visitors),
        "churn_visits": sum(one.visits for one in visitors),
        "memory_mb_per_h": slope,
        "memory_mb_per_h_error": spread,
        "memory_mb": round(float(memory[-1]), 1),
        "memory_growth_mb": round(float(np.median(memory[last]) - np.median(memory[first])), 2),
        "fd_growth": round(float(np.median(files[last]) - np.median(files[first]))),
        "sessions_left": info["sessions"] + info["offloaded"],
        "refused": functools.reduce(operator.iadd, (one.refused for one in visitors), []),
        "stuck": sum(one.is_alive() for one in visitors),
    }


def _watch(
    server: ServerUnderTest, seconds: float, enough: Callable[[], bool]
) -> list[tuple[float, float, int]]:
    """Sample (seconds, MiB, open files) a few times a second."""
    rows, begun = [], time.monotonic()
    while (now := time.monotonic() - begun) < seconds and server.alive and not enough():
        rows.append((now, server.memory, server.files))
        time.sleep(max(0.25, seconds / 8000))
    return rows


def _slope(times: np.ndarray, memory: np.ndarray) -> tuple[float, float]:
    """Fit MiB per hour by least squares, with its standard error for independent samples."""
    fit, cover = np.polyfit(times / 3600, memory, 1, cov=True)
    return round(float(fit[0]), 2), round(float(np.sqrt(cover[0, 0])), 2)
