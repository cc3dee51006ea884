"""``python -m benchmarks.temperatures``: policies of dreams of several temperatures, in dream and reality.

Each cell of the table learns a policy of its own for the same minutes, and is scored in its dream, in a dream
of temperature 1 and in the real game. Cells are kept under ``--out``: the same command continues where an
interrupted one ended. ``worldsim eval WORLD --policies OUT`` ranks all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim.agents.dreamer.batch_agents import check_world
from worldsim.agents.dreamer.beginnings import real_beginnings
from worldsim.agents.dreamer.dream_batch import DreamBatch
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.options import add_dream_options, dream_settings
from worldsim.agents.dreamer.policy import load_policy, save_policy
from worldsim.agents.dreamer.score import fresh_seeds, mean_and_error, score_policy
from worldsim.agents.dreamer.training import REWARDS, train_policy
from worldsim.engine.world import World, load
from worldsim.options import COUNT, MINUTES, PROCESSES, TEMPERATURE, THREADS, Number, Parser, listed
from worldsim.utils.output_paths import check_writable
from worldsim.utils.run_command import run_command

__all__ = ["Cell", "main"]

_HOLD = Number(low=1, high=1050)
_DREAM_SEED = 5_000_000_000
"""First seed of the dreams that are scored."""


@dataclass(frozen=True)
class Cell:
    """A setting of the table."""

    temperature: float
    hold: int
    """Frames that a decision is held."""
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"t{self.temperature:g}-hold{self.hold}-seed{self.seed}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    check_writable(args.out)
    if args.threads:
        torch.set_num_threads(args.threads)
    world = load(args.world, args.device)
    check_world(world)
    rows = []
    for cell in _cells(args):
        path = args.out / f"{cell.name}.json"
        if not _learn(world, cell, args):
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
        if args.learn_only:
            continue
        if not path.is_file():
            row = _measure(world, cell, args)
            made = path.with_suffix(".tmp")
            made.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
            made.replace(path)
        rows.append(json.loads(path.read_text(encoding="utf-8")))
        print(_line(cell.name, rows[-1]), file=sys.stderr, flush=True)
    if args.learn_only:
        return 0
    table = _table(rows)
    (args.out / "table.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table) if args.json else _markdown(table))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.temperatures",
        description="Policies of dreams of several temperatures, in dream and reality.",
    )
    add = parser.add_argument
    add("world", help="name or folder of the world to dream, e.g. take-cover")
    add("--out", type=Path, required=True, help="folder for policies, cells and the table")
    add("--minutes", type=MINUTES, required=True, help="of learning, for each cell")
    add(
        "--temperatures",
        type=listed(TEMPERATURE),
        default="0.1,0.5,1.0,1.15,1.3",
        help="of the dreams, between commas",
    )
    add("--hold", type=listed(_HOLD), default="4", help="frames a decision is held; also several: 1,4")
    add("--seeds", type=COUNT, default=3, help="policies of each setting")
    add("--reward", choices=REWARDS, default="survival", help="what the policies learn for")
    add_dream_options(parser)
    add("--episodes", type=COUNT, default=100, help="episodes a cell is scored on")
    add("--games", type=PROCESSES, default=10, help="real games side by side")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--json", action="store_true", help="print JSON, not a table in Markdown")
    add("--learn-only", action="store_true", help="score nothing: the same command without it does so later")
    return parser


def _cells(args: argparse.Namespace) -> Iterator[Cell]:
    """All cells, the first seed of every setting first: an interrupted table is a whole one of few seeds."""
    for seed in range(args.seeds):
        for hold in args.hold:
            for temperature in args.temperatures:
                yield Cell(temperature, hold, seed)


def _learn(world: World, cell: Cell, args: argparse.Namespace) -> bool:
    """Learn a cell's policy, unless it is there; False where Ctrl-C came first."""
    path = args.out / f"{cell.name}.safetensors"
    if path.is_file():
        return True
    begun = world.with_starts(real_beginnings(world, args.starts, cell.seed))
    settings = dream_settings(
        args, temperature=cell.temperature, hold=cell.hold, reward=args.reward, seed=cell.seed
    )
    outcome = train_policy(begun, args.minutes, settings)
    if outcome.finished:
        save_policy(path, outcome.policy, outcome.metadata)
    return outcome.finished


def _measure(world: World, cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """Scores of a cell's policy."""
    begun = world.with_starts(real_beginnings(world, args.starts, cell.seed))
    path = args.out / f"{cell.name}.safetensors"
    policy, tics = load_policy(path), world.spec.tics or 1
    row: dict[str, Any] = {"minutes": args.minutes, "frames": policy.metadata.frames} | asdict(cell)
    for name, temperature in (("dream", cell.temperature), ("dream_at_1", 1.0)):
        count = min(args.episodes, args.dreams)
        batch = DreamBatch(begun, count, temperature=temperature, most=args.episode)
        seeds = fresh_seeds(cell.seed, args.episodes, _DREAM_SEED)
        row[f"{name}_mean"], row[f"{name}_se"] = mean_and_error(
            batch.lengths(batch.agent(policy), seeds) * tics
        )
    with Games(world.spec.name, world.spec.size, min(args.games, args.episodes), args.episode) as games:
        score = score_policy(games, world, policy, cell.seed, args.episodes)
    return row | {"real_mean": score.mean, "real_se": score.se, "real_median": score.median}


def _table(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each temperature and hold: means over the seeds, and their standard errors."""
    groups: dict[tuple[int, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["hold"], row["temperature"]), []).append(row)
    table = []
    for (hold, temperature), group in sorted(groups.items()):
        told: dict[str, Any] = {"temperature": temperature, "hold": hold, "seeds": len(group)}
        for name in ("dream", "dream_at_1", "real"):
            values = np.array([row[f"{name}_mean"] for row in group])
            told[f"{name}_mean"], told[f"{name}_se"] = mean_and_error(values)
        best = max(group, key=lambda row: float(row["real_mean"]))
        table.append(told | {"real_best": best["real_mean"], "best_seed": best["seed"]})
    return table


def _markdown(table: Iterable[dict[str, Any]]) -> str:
    lines = ["| temperature | hold | seeds | dream | dream at 1.0 | real | best seed |", "|" + "---|" * 7]
    for row in table:
        scores = [
            f"{row[f'{name}_mean']:.0f} ± {row[f'{name}_se']:.0f}" for name in ("dream", "dream_at_1", "real")
        ]
        parts = [f"{row['temperature']:g}", str(row["hold"]), str(row["seeds"]), *scores]
        lines.append(f"| {' | '.join(parts)} | {row['real_best']:.0f} |")
    return "\n".join(lines)


def _line(name: str, row: dict[str, Any]) -> str:
    return f"{name}: dream {row['dream_mean']:.0f}, real {row['real_mean']:.0f} ± {row['real_se']:.0f}"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
