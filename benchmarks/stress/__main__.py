"""``python -m benchmarks.stress``: all that a server must survive; the last line is one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.stress import churn, faults, kills, overload
from benchmarks.stress.companion import Companion, quantile
from benchmarks.stress.hostile import Flood
from benchmarks.stress.house import House

__all__ = ["main"]

HISTORY = 16
ROUNDS = 5
"""Attack and pause take turns, so that whatever else the machine does falls on both."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of each."""

    messages: int
    rate: float
    """Hostile messages a second."""
    kills: int
    fault_s: float
    churn_s: float
    overload_s: float
    night: bool = False


SLICE = Amounts(messages=100_000, rate=4000.0, kills=20, fault_s=4.0, churn_s=40.0, overload_s=4.0)
NIGHT = Amounts(
    messages=10_000_000, rate=4000.0, kills=200, fault_s=60.0, churn_s=2 * 3600.0, overload_s=60.0, night=True
)


def hostile(folder: Path, world: Path, amounts: Amounts) -> dict[str, Any]:
    """Hostile messages beside a good session, whose p99 is compared with that in the pauses between them."""
    with House(world, f"ipc://{folder}/hostile.sock", ["--slots", "16"], folder / "hostile.log") as house:
        companion = Companion(house.address)
        flood = Flood(house.address, companion.session, amounts.rate)
        companion.measure(1)
        peace, siege, ends, memory, files = [], [], [], [], []
        for _ in range(ROUNDS):
            flood.start(amounts.messages // ROUNDS)
            ends.append(flood.read())
            siege.append(companion.mark())
            memory.append(house.memory)
            files.append(house.files)
            peace.append(companion.measure(ends[-1]["seconds"] if not amounts.night else 60.0))
        flood.close()
        found = {
            "messages": sum(end["messages"] for end in ends),
            "message_rate": round(sum(end["messages"] for end in ends) / sum(end["seconds"] for end in ends)),
            "messages_unanswered": sum(end["unanswered"] for end in ends),
            "crashes": int(not house.alive),
            "hostile_fd_growth": min(files[1:]) - files[0],
            "hostile_memory_mb": [round(value, 1) for value in memory],
            "hostile_steps": sum(row["steps"] for row in siege),
            "p99_ms": [quantile(peace, 99), quantile(siege, 99)],
            "p99_ratio": round(quantile(siege, 99) / quantile(peace, 99), 2),
            "p50_ms": [quantile(peace, 50), quantile(siege, 50)],
            "others_refused": sum(len(row["refused"]) for row in (*siege, *peace)),
        }
        companion.end()
    return found


PARTS: dict[str, Callable[[Path, Path, Amounts], dict[str, Any]]] = {
    "hostile": hostile,
    "kills": lambda folder, world, amounts: kills.run(folder, world, amounts.kills, 1, HISTORY),
    "faults": lambda folder, world, amounts: faults.run(folder, world, amounts.fault_s, 1, HISTORY),
    "churn": lambda folder, world, amounts: churn.run(folder, world, amounts.churn_s),
    "overload": lambda folder, world, amounts: overload.run(folder, world, amounts.overload_s),
}


def main(argv: list[str] | None = None) -> int:
    """Run the parts; 1 where something was lost, doubled, refused, or did not end as it must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stress", description=__doc__)
    parser.add_argument("--night", action="store_true", help="the long figures; hours")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="keep the JSON there, too")
    arguments = parser.parse_args(argv)
    amounts = NIGHT if arguments.night else SLICE
    total: dict[str, Any] = {"refused": []}
    with tempfile.TemporaryDirectory(prefix="stress-") as name:
        folder = Path(name)
        world = _world(folder)
        for part in arguments.parts.split(","):
            begun = time.monotonic()
            row = PARTS[part](folder, world, amounts)
            row["seconds"] = {part: round(time.monotonic() - begun, 1)}
            print(f"{part}: {json.dumps(row)}", flush=True)
            _add(total, row)
    total["failures"] = failures(total)
    line = json.dumps(total)
    if arguments.out:
        arguments.out.write_text(line + "\n")
    print(line)
    return 1 if total["failures"] else 0


def failures(total: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    found = [f"{key} {total[key]}" for key in ZERO if total.get(key)]
    found += [f"refused {len(total['refused'])}"] if total["refused"] else []
    limits = {"p99_ratio": 2.0, "fd_growth": 2, "hostile_fd_growth": 2, "reject_p99_ms": 10.0}
    # A slope is told from noise in hours only; in a slice of seconds none but a gross leak shows.
    limits |= {"memory_mb_per_h": 1.0} if total.get("churn_s", 0) >= 3600 else {"memory_growth_mb": 8.0}
    found += [f"{key} {total[key]} > {most}" for key, most in limits.items() if total.get(key, 0) > most]
    if total.get("goodput", 1.0) < 0.9:
        found.append(f"goodput {total['goodput']} < 0.9")
    return found


ZERO = (
    "crashes",
    "lost_steps",
    "duplicate_steps",
    "hash_mismatches",
    "stuck",
    "messages_unanswered",
    "sessions_left",
    "others_refused",
    "other_refusals",
)


def _world(folder: Path) -> Path:
    from worldsim.checkpoint import tiny_world

    return tiny_world(folder)


def _add(total: dict[str, Any], row: dict[str, Any]) -> None:
    """Counts of the same name are added up."""
    for key, value in row.items():
        if key == "seconds":
            total[key] = {**total.get(key, {}), **value}
        elif key in total and isinstance(value, int | list):
            total[key] = total[key] + value
        else:
            total[key] = value


if __name__ == "__main__":
    sys.exit(main())
