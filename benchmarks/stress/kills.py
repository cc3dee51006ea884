"""kill -9 at random points: nothing acknowledged is lost or done twice, every frame is as if undisturbed.

First of a server that is one process, then of engines behind a front, and of the front itself.
"""

from __future__ import annotations

import functools
import operator
import random
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.stress.oracle import RefusedError, StressCounts, Walk, compare, go_together
from benchmarks.stress.raw_client import RawClient, UnansweredError
from benchmarks.stress.server_process import ServerUnderTest

__all__ = ["run", "run_fleet"]

CLIENTS, SESSIONS = 4, 8
"""32 sessions in all."""
ENGINES = 2
PATIENCE = 600.0
"""Seconds: a machine that does other things, too, may take long to start a server."""


class _Walker(threading.Thread):
    """A client that walks through its sessions until it is told to stop, whatever happens to the server."""

    def __init__(self, number: int, address: str) -> None:
        super().__init__(daemon=True)
        self.chance = random.Random(number)
        self.address, self.tally = address, StressCounts()
        self.walks = [Walk(seed=100 * number + i, observed_share=0.05) for i in range(SESSIONS)]
        self.opened, self.ended, self.house_died = (threading.Event() for _ in range(3))

    def run(self) -> None:
        client = RawClient(self.address, patience=PATIENCE)
        try:
            client.hello()
            for walk in self.walks:
                walk.open(client)
            self.opened.set()
            while not self.ended.is_set():
                self._go(client)
            for walk in self.walks:
                walk.go(client, self.chance)
        except (RefusedError, UnansweredError) as error:
            self.tally.refused.append(f"{type(error).__name__}: {error}")
            self.opened.set()
        finally:
            client.close()

    def _go(self, client: RawClient) -> None:
        if self.house_died.is_set():
            self.house_died.clear()
            known = client.hello()["sessions"]
            for walk in self.walks:
                walk.checked(known, self.tally)
        if self.chance.random() < 0.2:
            self.chance.choice(self.walks).go(client, self.chance)
        else:
            go_together(self.walks, client, self.chance)


class _Walkers:
    """All clients of one house.

    Args:
        address: of its data socket.
        first: number of the first of them, which their sessions' seeds follow from.
    """

    def __init__(self, address: str, first: int) -> None:
        self._all = [_Walker(first + number, address) for number in range(CLIENTS)]
        for walker in self._all:
            walker.start()
        for walker in self._all:
            walker.opened.wait(PATIENCE)

    def wait(self, steps: int, patience: float = 20.0) -> None:
        """Until so many more steps are acknowledged."""
        end, goal = time.monotonic() + patience, self.steps + steps
        while self.steps < goal and time.monotonic() < end:
            time.sleep(0.002)

    def told(self) -> None:
        """Something died: have them look whether all is there when they are next answered."""
        for walker in self._all:
            walker.house_died.set()

    def end(self) -> None:
        """Let each go one step more, and leave."""
        for walker in self._all:
            walker.ended.set()
        for walker in self._all:
            walker.join(PATIENCE)

    @property
    def steps(self) -> int:
        return sum(walk.seq for walker in self._all for walk in walker.walks)

    def counts(self, world: Path, denoising_steps: int, rewind_frames: int) -> dict[str, Any]:
        """What came of it, every acknowledged frame held against those of an engine that nobody killed."""
        walks = [walk for walker in self._all for walk in walker.walks if walk.hashes]
        tallies = [walker.tally for walker in self._all]
        return {
            "kill_sessions": len(walks),
            "kill_steps": self.steps,
            "lost_steps": sum(tally.lost_steps for tally in tallies),
            "duplicate_steps": sum(tally.duplicate_steps for tally in tallies),
            "hash_mismatches": compare(world, walks, denoising_steps, rewind_frames),
            "refused": functools.reduce(operator.iadd, (tally.refused for tally in tallies), []),
            "stuck": sum(walker.is_alive() for walker in self._all),
        }


def run(folder: Path, world: Path, kills: int, denoising_steps: int = 1, rewind_frames: int = 16) -> dict[str, Any]:
    """Kill a server with 32 walking sessions ``kills`` times, now and then also while it starts.

    Returns:
        counts: ``kills``, ``lost_steps``, ``duplicate_steps``, ``hash_mismatches``, ``refused``, ..
    """
    house = _house(folder, world, "kills", denoising_steps, rewind_frames)
    chance, recoveries, crashes = random.Random(1), [], 0
    house.start(PATIENCE)
    walkers = _Walkers(house.address, 0)
    for _ in range(kills):
        walkers.wait(chance.randint(0, 600))
        time.sleep(chance.uniform(0.0, 0.02))
        crashes += not house.alive
        house.kill()
        if chance.random() < 0.15:
            house.launch()
            time.sleep(chance.uniform(0.2, 3.0))
            house.kill()
        walkers.told()
        recoveries.append(house.start(PATIENCE))
    walkers.end()
    house.stop()
    found = walkers.counts(world, denoising_steps, rewind_frames)
    return {
        "kills": kills,
        "crashes": crashes,
        **found,
        "recovery_s_max": round(max(recoveries, default=0), 2),
    }


def run_fleet(folder: Path, world: Path, kills: int, denoising_steps: int = 1, rewind_frames: int = 16) -> dict[str, Any]:
    """Kill single engines behind a front ``kills`` times, also while they start or take over; then the front.

    Returns:
        counts: as ``run``, with ``engine_kills`` and, a quarter as many, ``front_kills``.
    """
    house = _house(folder, world, "fleet", denoising_steps, rewind_frames, "--engines", str(ENGINES))
    chance = random.Random(2)
    fronts, crashes, killed = kills // 4, 0, 0
    house.start(PATIENCE)
    _whole(house)
    walkers = _Walkers(house.address, CLIENTS)
    while killed < kills:
        walkers.wait(chance.randint(0, 400))
        killed += house.kill_child(chance)
        walkers.told()
        crashes += not house.alive
        if chance.random() < 0.7:
            _whole(house)
        else:
            time.sleep(chance.uniform(0.0, 5.0))
    for _ in range(fronts):
        _whole(house)
        walkers.wait(chance.randint(0, 400))
        crashes += not house.alive
        house.kill()
        walkers.told()
        house.start(PATIENCE)
    walkers.end()
    house.stop()
    found = walkers.counts(world, denoising_steps, rewind_frames)
    return {"engine_kills": killed, "front_kills": fronts, "crashes": crashes, **found}


def _house(folder: Path, world: Path, name: str, denoising_steps: int, rewind_frames: int, *more: str) -> ServerUnderTest:
    # A machine that is stopped for a while must not be taken for a client that is gone.
    options = ["--state", str(folder / f"{name}-state"), "--slots", str(CLIENTS * SESSIONS), "--ttl", "600"]
    options += ["--denoising-steps", str(denoising_steps), "--rewind-frames", str(rewind_frames), *more]
    return ServerUnderTest(world, f"ipc://{folder}/{name}.sock", options, folder / f"{name}.log")


def _whole(house: ServerUnderTest) -> None:
    """Wait until all engines behind a front are ready."""
    client = RawClient(house.address, patience=PATIENCE)
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end:
            reply = client.ask("info", kind="control")
            if reply.header["engines"] == ENGINES:
                return
            time.sleep(0.1)
    finally:
        client.close()
    raise UnansweredError("engines")
