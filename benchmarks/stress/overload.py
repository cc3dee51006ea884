"""Overload by a factor of four: throughput must not drop, and refusals must be immediate."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import operator
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stress.raw_client import RawClient, Reply, new_name
from benchmarks.stress.server_process import ServerUnderTest
from worldsim.bridge.server.thread_priority import raise_priority

__all__ = ["run"]

CLIENTS, SESSIONS = 2, 32
ROUNDS = 8
"""Load and overload alternate, each first in half of the rounds."""


def run(folder: Path, world: Path, seconds: float) -> dict[str, Any]:
    """Step 64 sessions with one request under way for each; then the same sessions with four.

    At one a client stays below what may wait (64 requests); at four, two thirds and more of what it asks is
    refused, and asked again when the server says so.

    Returns:
        counts: ``goodput`` (steps a second at four times the load over those at the load), ``reject_p50_ms``,
        ``reject_p99_ms``, ``rejects``, ..
    """
    address = f"ipc://{folder}/overload.sock"
    options = ["--slots", str(CLIENTS * SESSIONS), "--denoising-steps", "1"]
    with ServerUnderTest(world, address, options, folder / "overload.log") as server:
        rows: dict[int, list[dict[str, Any]]] = {1: [], 4: []}
        for number in range(ROUNDS):
            for depth in (1, 4) if number % 2 == 0 else (4, 1):
                rows[depth].append(_load(address, depth, seconds))
        crashed = not server.alive
    peak, loaded = ([row["rate"] for row in side] for side in rows.values())
    rejects = [time for over in rows[4] for time in over["rejects"]]
    p50, p99 = np.percentile(rejects or [0.0], [50, 99]).round(2).tolist()
    return {
        "crashes": int(crashed),
        "peak_steps_per_s": [round(rate) for rate in peak],
        "overload_steps_per_s": [round(rate) for rate in loaded],
        "goodput": round(sum(loaded) / sum(peak), 3),
        "rejects": len(rejects),
        "reject_p50_ms": p50,
        "reject_p99_ms": p99,
        "other_refusals": sum(over["others"] for over in rows[4]),
    }


def _load(address: str, depth: int, seconds: float) -> dict[str, Any]:
    """Return steps per second of all clients, times of refusals, and the number of other errors."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(CLIENTS):
        pipe, theirs = context.Pipe()
        processes.append(
            context.Process(target=_generate_load, args=(theirs, address, depth, seconds), daemon=True)
        )
        processes[-1].start()
        pipes.append(pipe)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("go")
    found = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join(10)
    return {
        "rate": sum(one["rate"] for one in found),
        "rejects": functools.reduce(operator.iadd, (one["rejects"] for one in found), []),
        "others": sum(one["others"] for one in found),
    }


class _LoadGenerator:
    """Load generator that keeps ``depth`` steps of each session in flight, in order of seq."""

    def __init__(self, client: RawClient, depth: int) -> None:
        self.client, self.depth = client, depth
        self.taken = {new_name(): 0 for _ in range(SESSIONS)}
        self.asked: dict[int, tuple[str, int, float]] = {}
        self.under_way: dict[str, set[int]] = defaultdict(set)
        self.quiet: dict[str, float] = {}
        self.steps = self.others = 0
        self.rejects: list[float] = []

    def fill(self) -> None:
        """Send the missing requests."""
        now = time.monotonic()
        for ahead in range(1, self.depth + 1):
            for name, taken in list(self.taken.items()):
                if taken + ahead not in self.under_way[name] and self.quiet.get(name, 0.0) <= now:
                    self._ask(name, taken + ahead)
                    self.take(0)  # or the time that all the asking takes would count as the server's

    def take(self, wait: float) -> None:
        """Handle available replies."""
        for reply in self.client.next_all(wait):
            asked = self.asked.pop(reply.header["id"], None)
            if asked is not None:
                self._note(reply, *asked)

    def _ask(self, name: str, seq: int) -> None:
        parts, number = self.client.request("step", session=name, seq=seq, control={}, codec="none")
        self.under_way[name].add(seq)
        self.asked[number] = name, seq, time.monotonic()
        self.client.send_once(parts)

    def _note(self, reply: Reply, name: str, seq: int, asked: float) -> None:
        header = reply.header
        self.under_way[name].discard(seq)
        if header["ok"]:
            self.steps += 1
            self.taken[name] = max(self.taken[name], seq)
            return
        error = header["error"]
        if error["code"] == "UNAVAILABLE":
            self.rejects.append(1000 * (reply.received - asked))
            self.quiet[name] = reply.received + (error["retry_after_ms"] or 10) / 1000
        elif error["code"] != "OUT_OF_ORDER":  # what follows a refused step cannot be taken either
            self.others += 1


def _generate_load(pipe: Connection, address: str, depth: int, seconds: float) -> None:
    raise_priority()  # times are the server's, not those of a client that waits for a core
    gc.disable()
    client = RawClient(address)
    client.hello()
    load = _LoadGenerator(client, depth)
    for number, name in enumerate(load.taken):
        client.ask("open", session=name, seed=number)
    pipe.send("ready")
    pipe.recv()
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        load.fill()
        load.take(0.02)
    rate = load.steps / (time.monotonic() - begun)
    for name in load.taken:
        client.ask("close", session=name)
    client.close()
    pipe.send({"rate": rate, "rejects": load.rejects, "others": load.others})
