"""kill -9 at random points: nothing acknowledged is lost or done twice, every frame is as if undisturbed."""

from __future__ import annotations

import functools
import operator
import random
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.stress.house import House
from benchmarks.stress.visitor import UnansweredError, Visitor
from benchmarks.stress.walks import RefusedError, Tally, Walk, compare, go_together

__all__ = ["run"]

CLIENTS, SESSIONS = 4, 8
"""32 sessions in all."""


class _Walker(threading.Thread):
    """A client that walks through its sessions until it is told to stop, whatever happens to the server."""

    def __init__(self, number: int, address: str) -> None:
        super().__init__(daemon=True)
        self.chance = random.Random(number)
        self.address, self.tally = address, Tally()
        self.walks = [Walk(seed=100 * number + i) for i in range(SESSIONS)]
        self.opened, self.ended, self.house_died = (threading.Event() for _ in range(3))

    def run(self) -> None:
        visitor = Visitor(self.address)
        try:
            visitor.hello()
            for walk in self.walks:
                walk.open(visitor)
            self.opened.set()
            while not self.ended.is_set():
                self._go(visitor)
            for walk in self.walks:
                walk.go(visitor, self.chance)
        except (RefusedError, UnansweredError) as error:
            self.tally.refused.append(f"{type(error).__name__}: {error}")
            self.opened.set()
        finally:
            visitor.close()

    def _go(self, visitor: Visitor) -> None:
        if self.house_died.is_set():
            self.house_died.clear()
            known = visitor.hello()["sessions"]
            for walk in self.walks:
                walk.checked(known, self.tally)
        if self.chance.random() < 0.2:
            self.chance.choice(self.walks).go(visitor, self.chance)
        else:
            go_together(self.walks, visitor, self.chance)


def _wait_for_steps(walkers: list[_Walker], steps: int, patience: float = 20.0) -> None:
    """Until so many more steps are acknowledged."""
    end, goal = time.monotonic() + patience, _steps(walkers) + steps
    while _steps(walkers) < goal and time.monotonic() < end:
        time.sleep(0.002)


def _steps(walkers: list[_Walker]) -> int:
    return sum(walk.seq for walker in walkers for walk in walker.walks)


def run(folder: Path, world: Path, kills: int, steps: int = 1, history: int = 16) -> dict[str, Any]:
    """Kill a server with 32 walking sessions ``kills`` times, now and then also while it starts.

    Returns:
        counts: ``kills``, ``lost_steps``, ``duplicate_steps``, ``hash_mismatches``, ``refused``, ..
    """
    address = f"ipc://{folder}/kills.sock"
    # A machine that is stopped for a while must not be taken for a client that is gone.
    options = ["--state", str(folder / "state"), "--slots", "32", "--ttl", "600"]
    options += ["--steps", str(steps), "--history", str(history)]
    house = House(world, address, options, folder / "kills.log")
    chance, recoveries = random.Random(1), []
    house.start()
    walkers = [_Walker(number, address) for number in range(CLIENTS)]
    for walker in walkers:
        walker.start()
    for walker in walkers:
        walker.opened.wait(120)
    crashes = 0
    for _ in range(kills):
        _wait_for_steps(walkers, chance.randint(0, 600))
        time.sleep(chance.uniform(0.0, 0.02))
        crashes += not house.alive
        house.kill()
        if chance.random() < 0.15:
            house.launch()
            time.sleep(chance.uniform(0.2, 3.0))
            house.kill()
        for walker in walkers:
            walker.house_died.set()
        recoveries.append(house.start())
    for walker in walkers:
        walker.ended.set()
    for walker in walkers:
        walker.join(120)
    house.stop()
    walks = [walk for walker in walkers for walk in walker.walks if walk.hashes]
    tallies = [walker.tally for walker in walkers]
    return {
        "kills": kills,
        "kill_sessions": len(walks),
        "kill_steps": _steps(walkers),
        "crashes": crashes,
        "lost_steps": sum(tally.lost_steps for tally in tallies),
        "duplicate_steps": sum(tally.duplicate_steps for tally in tallies),
        "hash_mismatches": compare(world, walks, steps, history),
        "refused": functools.reduce(operator.iadd, (tally.refused for tally in tallies), []),
        "stuck": sum(walker.is_alive() for walker in walkers),
        "recovery_s_max": round(max(recoveries, default=0.0), 2),
    }
