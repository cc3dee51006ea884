"""Victim: a well-behaved client in a process of its own, whose latency must not suffer."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np

from benchmarks.stress.oracle import RefusedError, SessionTrace
from benchmarks.stress.raw_client import NoReplyError, RawClient
from worldsim.bridge.server.thread_priority import raise_priority

__all__ = ["Victim", "quantile", "step_steadily"]

_TIMEOUT = 600.0
"""Seconds: a machine that is stopped for a while is no fault of the server's."""


class Victim:
    """Client that steps one session at a fixed rate.

    Args:
        address: of a server's data socket.
        rate: steps a second.
    """

    def __init__(self, address: str, rate: float = 40.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.resume = context.Event()
        self.resume.set()
        self._process = context.Process(target=_run, args=(theirs, self.resume, address, rate), daemon=True)
        self._process.start()
        self.session: str = self._pipe.recv()
        self.pid: int = self._process.pid or 0

    def mark(self) -> dict[str, Any]:
        """Return ``steps``, ``times_ms`` and ``refused`` since the last mark."""
        self._pipe.send("mark")
        found: dict[str, Any] = self._pipe.recv()
        return found

    def measure(self, seconds: float) -> dict[str, Any]:
        """Return what happens in the next ``seconds``, as ``mark``."""
        self.mark()
        time.sleep(seconds)
        return self.mark()

    def end(self) -> SessionTrace | None:
        """Close its session; return its trace, or None if it does not answer."""
        self._pipe.send("end")
        trace: SessionTrace | None = self._pipe.recv() if self._pipe.poll(60) else None
        self._process.join(5)
        self._process.kill()
        return trace


def step_steadily(
    pipe: Connection, client: RawClient, trace: SessionTrace, rng: random.Random, rate: float, resume: Event
) -> None:
    """Step until told to stop, answering marks."""
    times: list[float] = []
    refused: list[str] = []
    due = time.monotonic()
    while True:
        while pipe.poll(0):
            if pipe.recv() == "end":
                client.ask("close", session=trace.name, timeout=10)
                return
            pipe.send(_summary(times, refused))
            times.clear()
            refused.clear()
        resume.wait()
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / rate, time.monotonic() - 1)
        begun = time.monotonic()
        try:
            trace.send_next(client, rng)
            times.append(1000 * (time.monotonic() - begun))
        except (RefusedError, NoReplyError) as error:
            refused.append(f"{type(error).__name__}: {error}")


def _run(pipe: Connection, resume: Event, address: str, rate: float) -> None:
    raise_priority()  # times are the server's, not those of a client that waits for a core
    client, rng = RawClient(address, timeout=_TIMEOUT), random.Random(3)
    client.hello()
    trace = SessionTrace(seed=33)
    trace.open(client)
    pipe.send(trace.name)
    step_steadily(pipe, client, trace, rng, rate, resume)
    pipe.send(trace)


def quantile(rows: list[dict[str, Any]], percent: float) -> float:
    """Return a percentile of all step times in milliseconds."""
    times = [time for row in rows for time in row["times_ms"]]
    return round(float(np.percentile(times or [float("nan")], percent)), 2)


def _summary(times: list[float], refused: list[str]) -> dict[str, Any]:
    return {"steps": len(times), "times_ms": list(times), "refused": list(refused)}
