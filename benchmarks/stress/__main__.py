"""``python -m benchmarks.stress``: stress tests of a server; the last line is one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.stress import churn, kills, network_faults, overload, resource_exhaustion, untrusted_input
from benchmarks.stress.aggregate import add, failures
from benchmarks.stress.fuzz import Flood
from benchmarks.stress.server_process import ServerUnderTest
from benchmarks.stress.victim import Victim, quantile
from worldsim.options import COUNT, NATURAL, PROCESSES, SECONDS, Number, Parser
from worldsim.utils.output_paths import claim_file
from worldsim.utils.run_command import run_command

__all__ = ["main"]

REWIND_FRAMES = 16
_RATE = Number(whole=False)
ROUNDS = 5
"""Attack and baseline alternate, so that other load on the machine affects both."""


@dataclass(frozen=True, slots=True)
class StressAmounts:
    """Amounts of each part."""

    messages: int
    rate: float
    """Fuzzed messages per second."""
    kills: int
    engine_kills: int
    """And a quarter as many kills of the router."""
    fault_s: float
    churn_s: float
    overload_s: float
    byte_flood_s: float = 5.0
    steps: int = 10**9
    """Steps after which the churn ends, unless its seconds end first."""
    restores: int = 10_000
    """Number of forged snapshots."""
    worlds: int = 2_000
    """Number of corrupted checkpoints."""
    floods: int = 1
    """Processes that send fuzzed messages."""


SHORT = StressAmounts(
    messages=100_000, rate=4000.0, kills=20, engine_kills=8, fault_s=4.0, churn_s=40.0, overload_s=4.0
)
NIGHTLY = StressAmounts(
    messages=10_000_000,
    rate=4000.0,
    kills=200,
    engine_kills=60,
    fault_s=60.0,
    churn_s=2 * 3600.0,
    overload_s=60.0,
    steps=2_600_000,
    restores=1_000_000,
    worlds=100_000,
)
PAUSE = 60.0
"""Longest baseline between two attacks, in seconds."""


def fuzz_messages(folder: Path, world: Path, amounts: StressAmounts) -> dict[str, Any]:
    """Fuzz a server; compare the p99 of a victim's steps with the baseline."""
    # A machine that is stopped for a while must not be taken for a client that is gone.
    options = ["--slots", "16", "--lease-ttl", "600"]
    with ServerUnderTest(world, f"ipc://{folder}/fuzz.sock", options, folder / "fuzz.log") as server:
        victim = Victim(server.address)
        count = amounts.floods
        floods = [Flood(server.address, victim.session, amounts.rate / count) for _ in range(count)]
        victim.measure(1)
        baseline, attacked, ends, memory, files = [], [], [], [], []
        for _ in range(ROUNDS):
            for flood in floods:
                flood.start(amounts.messages // ROUNDS // count)
            ends += [flood.read() for flood in floods]
            attacked.append(victim.mark())
            memory.append(server.memory)
            files.append(server.files)
            baseline.append(victim.measure(min(PAUSE if _paced(amounts) else 2.0, ends[-1]["seconds"])))
        for flood in floods:
            flood.close()
        sent, lasted = (sum(end[name] for end in ends) for name in ("messages", "seconds"))
        found = {
            "messages": sent,
            "message_rate": round(count * sent / lasted),
            "messages_unanswered": sum(end["unanswered"] for end in ends),
            "crashes": int(not server.alive),
            "fuzz_fd_growth": min(files[1:]) - files[0],
            "fuzz_memory_mb": [round(value, 1) for value in memory],
            "fuzz_steps": sum(row["steps"] for row in attacked),
            "p99_ms": [quantile(baseline, 99), quantile(attacked, 99)],
            "p99_ratio" if _paced(amounts) else "p99_ratio_unpaced": round(
                quantile(attacked, 99) / quantile(baseline, 99), 2
            ),
            "p50_ms": [quantile(baseline, 50), quantile(attacked, 50)],
            "others_refused": sum(len(row["refused"]) for row in (*attacked, *baseline)),
            "others_refused_as": sorted({text for row in (*attacked, *baseline) for text in row["refused"]})[
                :3
            ],
        }
        victim.end()
    return found


def _paced(amounts: StressAmounts) -> bool:
    """Return True if the attack leaves CPU time for others: only then are times meaningful."""
    return 0 < amounts.rate <= SHORT.rate


PARTS: dict[str, Callable[[Path, Path, StressAmounts], dict[str, Any]]] = {
    "fuzz": fuzz_messages,
    "kills": lambda folder, world, amounts: kills.run(folder, world, amounts.kills, 1, REWIND_FRAMES),
    "replicas": lambda folder, world, amounts: kills.run_replicas(
        folder, world, amounts.engine_kills, 1, REWIND_FRAMES
    ),
    "network": lambda folder, world, amounts: network_faults.run(
        folder, world, amounts.fault_s, 1, REWIND_FRAMES
    ),
    "churn": lambda folder, _, amounts: churn.run(
        folder, _cheap_world(folder), amounts.churn_s, amounts.steps
    ),
    "bytes": lambda folder, world, amounts: resource_exhaustion.bytes_(folder, world, amounts.byte_flood_s),
    "descriptors": lambda folder, world, _: resource_exhaustion.descriptors(folder, world),
    "pauses": lambda folder, _, amounts: resource_exhaustion.pauses(folder, _cheap_world(folder)),
    "restores": lambda folder, world, amounts: untrusted_input.restores(folder, world, amounts.restores),
    "worlds": lambda folder, _, amounts: untrusted_input.worlds(folder, amounts.worlds),
    "flips": lambda folder, world, _: untrusted_input.flips(folder, world),
    "overload": lambda folder, world, amounts: overload.run(folder, world, amounts.overload_s),
}


def main(argv: list[str] | None = None) -> int:
    """Run the parts; return 1 if anything failed."""
    arguments = _parser().parse_args(argv)
    amounts = _amounts(arguments)
    if arguments.out:
        claim_file(arguments.out, replace=arguments.resume, remedy="add --resume")
    total: dict[str, Any] = {"refused": []}
    if arguments.resume and arguments.out.exists():
        total = json.loads(arguments.out.read_text())
    with tempfile.TemporaryDirectory(prefix="stress-") as name:
        folder = Path(name)
        world = _tiny_world(folder)
        for part in arguments.parts.split(","):
            begun = time.monotonic()
            row = PARTS[part](folder, world, amounts)
            row["seconds"] = {part: round(time.monotonic() - begun, 1)}
            print(f"{part}: {json.dumps(row)}", flush=True)
            add(total, row)
            total["failures"] = failures(total)
            if arguments.out:
                arguments.out.write_text(json.dumps(total) + "\n")
    print(json.dumps(total))
    return 1 if total["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.stress", description=__doc__)
    parser.add_argument("--night", action="store_true", help="nightly amounts; takes hours")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--messages", type=NATURAL, metavar="N", help="fuzzed messages")
    parser.add_argument("--rate", type=_RATE, metavar="N", help="messages per second; 0: as fast as possible")
    parser.add_argument("--floods", type=PROCESSES, metavar="N", help="processes that send fuzzed messages")
    parser.add_argument("--restores", type=NATURAL, metavar="N", help="forged snapshots")
    parser.add_argument("--worlds", type=NATURAL, metavar="N", help="corrupted checkpoints")
    parser.add_argument("--kills", type=NATURAL, metavar="N", help="kill -9 of a server")
    parser.add_argument(
        "--engine-kills", type=NATURAL, metavar="N", help="kill -9 of engines behind a router"
    )
    parser.add_argument(
        "--steps", type=COUNT, metavar="N", help="steps of the churn, in no more than --churn-s"
    )
    parser.add_argument("--churn-s", type=SECONDS, metavar="S", help="seconds of the churn")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the JSON there, too")
    parser.add_argument("--resume", action="store_true", help="add to what an earlier run left in --out")
    return parser


def _amounts(arguments: argparse.Namespace) -> StressAmounts:
    """Return the short or nightly amounts, with those given on the command line."""
    if arguments.resume and not arguments.out:
        raise SystemExit("--resume needs --out: the file to add to")
    names = ("messages", "rate", "floods", "restores", "worlds", "kills", "engine_kills", "steps", "churn_s")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return replace(NIGHTLY if arguments.night else SHORT, **given)


def _tiny_world(folder: Path) -> Path:
    from worldsim.testing import tiny_world

    return tiny_world(folder)


def _cheap_world(folder: Path) -> Path:
    """Return a world with the cheapest steps: churn counts sessions."""
    from worldsim.testing import tiny_world

    return tiny_world(folder, "light", tokenizer="frame", poses=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
