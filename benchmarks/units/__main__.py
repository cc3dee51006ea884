"""``python -m benchmarks.units``: prediction units, cubes, scorers, data, endless roll-outs ([Units]).

Tokenizer and base are trained once. Each cell takes them over, is fine-tuned causally and, in stage 2,
distilled, for the same minutes as all others of its table; then its roll-outs are measured against recorded
frames that nothing learnt from. All is kept under ``--out``: the same command continues where an interrupted
one ended. The tables are printed, written as JSON (``--results``), and shown on a page with films.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.units.cells import TABLES, Cell, Minutes, Workshop, cells_of
from benchmarks.units.measures import GIVEN, Reader, measure_endless, measure_rollouts, measure_speed
from benchmarks.units.page import markdown, write_films, write_page
from worldsim import config as configs
from worldsim.data.clips import Clip, ClipStore
from worldsim.engine.world import load
from worldsim.errors import ConfigError
from worldsim.evaluation.drift import frechet
from worldsim.networks import find_device
from worldsim.options import COUNT, MINUTES, THREADS, Parser, frame_size, listed
from worldsim.tokenizer.layers import block_grid
from worldsim.training.distillation.recipe import UnitsRecipe
from worldsim.utils.output_paths import check_writable
from worldsim.utils.run_command import run_command

__all__ = ["main"]

_TABLES = (*TABLES, "endless")
_STEPS = (1, 2, 4)
_ROW_FIELDS = {"unit", "scorer", "causal_data"}
"""Fields of the recipe that differ from row to row."""
_SHOWN = (
    "psnr16", "psnr16_shuffled", "psnr16_gap", "psnr16_changed", "psnr64", "psnr64_shuffled", "frechet",
    "motion_ratio", "sharpness_ratio", "key_accuracy",
)  # fmt: skip
"""Columns of the tables, where they were measured; the files have all."""
_COSTS = ("latency_frames", "autoregressive_steps")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 130 where Ctrl-C ended it."""
    args = _parser().parse_args(argv)
    check_writable(args.out)
    if args.threads:
        torch.set_num_threads(args.threads)
    changes = dict(pair.partition("=")[::2] for pair in args.set)
    if ours := sorted(set(changes) & _ROW_FIELDS):
        rule = "the rows of the tables choose the recipe's unit, scorer and data"
        raise ConfigError(rule, ours[0], "choose rows by --only")
    recipe = configs.override(UnitsRecipe(), changes)
    clips = ClipStore(args.data, args.size, cache=args.cache)
    cells = cells_of(block_grid(clips.spec.size, recipe.patch * recipe.pool))
    _check(args, cells)
    held_out = ClipStore(args.data, args.size, split="held_out", cache=args.cache)
    given = args.tokenizer_minutes or 2 * args.minutes, args.base_minutes or 2 * args.minutes
    minutes = Minutes(*given, args.minutes, args.distillation_minutes or args.minutes)
    workshop = Workshop(recipe, clips, held_out, args.out, minutes, find_device(args.device))
    return _run(args, workshop, _Jury(args, clips, held_out), cells)


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.units", description="Tables of prediction units.")
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that `worldsim record` wrote")
    add("--cache", type=Path, metavar="DIR", help="for decoded frames (default: beside the data)")
    add("--size", type=frame_size, help="frame size HxW (default: the dataset's)")
    add("--out", type=Path, required=True, help="folder for states, worlds, measurements and the page")
    add("--minutes", type=MINUTES, default=10, help="of each cell's causal fine-tuning")
    add("--distillation-minutes", type=MINUTES, help="of each cell's distillation (default: --minutes)")
    add("--tokenizer-minutes", type=MINUTES, help="once, for all cells (default: twice --minutes)")
    add("--base-minutes", type=MINUTES, help="once, for all cells (default: twice --minutes)")
    add("--tables", type=listed(str), default=list(_TABLES), help=f"of {','.join(_TABLES)} (default: all)")
    add("--only", type=listed(str), help="rows by name, between commas (default: all)")
    add("--stages", type=listed(int), default="1,2", help="1: causal alone; 1,2: distilled, too")
    add("--seeds", type=COUNT, default=1, help="trainings of each cell")
    add("--trajectories", type=COUNT, default=16, help="roll-outs that are measured")
    add("--frames", type=COUNT, default=64, help="frames of a roll-out")
    add("--endless-frames", type=COUNT, default=17_500, help="frames of an endless one")
    add("--endless-unit", default="frame", help="its row of the table units")
    add("--contexts", type=listed(int), default="4,8,16", help="its frames of past")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe units")
    add("--results", type=Path, help="write the tables as JSON to this file, too")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser


def _check(args: argparse.Namespace, cells: Sequence[Cell]) -> None:
    for table in args.tables:
        if table not in _TABLES:
            raise ConfigError(f"a table must be one of {', '.join(_TABLES)}", table)
    rows = [cell.name for cell in cells]
    for name in (*(args.only or ()), args.endless_unit):
        if name not in rows:
            raise ConfigError(f"a row must be one of {', '.join(dict.fromkeys(rows))}", name)


def _run(args: argparse.Namespace, workshop: Workshop, jury: _Jury, cells: Sequence[Cell]) -> int:
    chosen = [cell for cell in cells if cell.table in args.tables and cell.name in (args.only or [cell.name])]
    found: dict[str, list[dict[str, Any]]] = {}
    films: dict[str, dict[str, np.ndarray]] = {}
    if not workshop.shared(0):
        return _interrupted()
    for cell in chosen:
        for seed in range(args.seeds):
            worlds = workshop.worlds(cell, seed, 2 in args.stages)
            if worlds is None:
                return _interrupted()
            for stage, world in worlds.items():
                rows = jury.rows(cell, stage, seed, world)
                found.setdefault(cell.table, []).extend(rows)
                films.setdefault(cell.table, {})[f"{cell.name} {stage}"] = jury.film(world)
            print(markdown(_summary(found[cell.table])), file=sys.stderr, flush=True)
    if "endless" in args.tables:
        cell = next(cell for cell in cells if cell.name == args.endless_unit)
        worlds = workshop.worlds(cell, 0, 2 in args.stages)
        if worlds is None:
            return _interrupted()
        found["endless"] = [jury.endless(worlds[max(worlds)], context) for context in args.contexts]
    _write(args, workshop, jury, found, films)
    return 0


def _interrupted() -> int:
    print("interrupted; the same command goes on", file=sys.stderr)
    return 130


def _write(
    args: argparse.Namespace,
    workshop: Workshop,
    jury: _Jury,
    found: dict[str, list[dict[str, Any]]],
    films: dict[str, dict[str, np.ndarray]],
) -> None:
    """Print the tables; write them as JSON and as a page with films."""
    minutes = vars(workshop.minutes)
    tables = {name: rows if name == "endless" else _summary(rows) for name, rows in found.items()}
    report = {"minutes": minutes, "tables": tables, "rows": found, "real": jury.real}
    text = json.dumps(report, indent=1) + "\n"
    for path in (args.out / "tables.json", *([args.results] if args.results else [])):
        path.write_text(text, encoding="utf-8")
    files = {}
    for name, shown in films.items():
        folder = args.out / "films" / name.replace(" ", "-")
        written = write_films(folder, {"true": jury.true_film, **shown}, workshop.clips.spec.fps)
        files[name] = [f"films/{folder.name}/{file}" for file in written]
    write_page(args.out / "index.html", tables, files)
    for name, rows in tables.items():
        print(f"\n## {name}\n\n{markdown(rows)}")


def _summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each cell, stage and K: means over the seeds and, of several, half the range as "+-".

    Of a single seed it is the interval over roll-outs instead, where there is one.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["row"], row["stage"], row["K"]), []).append(row)
    table = []
    for (name, stage, steps), same in groups.items():
        line: dict[str, Any] = {"row": name, "stage": stage, "K": steps}
        for column in (*_SHOWN, "frames_per_s", "cpu_ms_per_frame", *_COSTS):
            values = [row[column] for row in same if column in row]
            if values:
                line[column] = float(np.mean(values))
            if len(values) > 1 and column in _SHOWN:
                line[f"{column} +-"] = float(np.ptp(values) / 2)
            elif f"{column}_low" in same[0]:
                line[f"{column} 95 %"] = f"{same[0][f'{column}_low']:.1f} to {same[0][f'{column}_high']:.1f}"
        table.append(line)
    return table


class _Jury:
    """Measures worlds on held-out clips; what was measured is read again from ``--out``."""

    def __init__(self, args: argparse.Namespace, clips: ClipStore, held_out: ClipStore) -> None:
        self._args, self._folder = args, args.out / "measured"
        self._folder.mkdir(parents=True, exist_ok=True)
        longest = max(episode.length for episode in held_out.episodes)
        length = min(GIVEN + args.frames, longest)
        self._clip: Clip = held_out.sample(args.trajectories, length, np.random.default_rng(7))
        self._reader = Reader(clips, length=min(33, min(episode.length for episode in clips.episodes)))
        true = self._clip.frames[:, GIVEN:]
        self.true_film = true[0]
        half = len(true) // 2
        self.real = {
            "key_accuracy": self._reader.accuracy(true, self._clip.controls[:, GIVEN:]),
            "frechet_halves": _between_halves(self._reader, true[:half], true[half : 2 * half]),
        }
        """Upper references: recorded frames, read and compared as imagined ones are."""

    def rows(self, cell: Cell, stage: str, seed: int, world: Path) -> list[dict[str, Any]]:
        """A row for each K of a cell's world."""
        rows = []
        for steps in _STEPS:
            path = self._folder / f"{world.parent.parent.name}-{stage}-k{steps}.json"
            if not path.exists():
                loaded = load(world, self._args.device)
                scores = measure_rollouts(loaded, self._clip, self._reader, steps)
                values = scores.values | measure_speed(loaded, steps)
                path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
                if steps == _STEPS[0]:
                    np.save(self._film_path(world), scores.frames[0])
            values = json.loads(path.read_text(encoding="utf-8"))
            rows.append({"row": cell.name, "stage": stage, "K": steps, "seed": seed, **values})
        return rows

    def film(self, world: Path) -> np.ndarray:
        """The first roll-out of a world, at the fewest denoising steps."""
        frames: np.ndarray = np.load(self._film_path(world))
        return frames

    def endless(self, world: Path, context: int) -> dict[str, Any]:
        """The row of an endless roll-out."""
        frames = self._args.endless_frames
        path = self._folder / f"endless-{world.parent.parent.name}-{context}-{frames}.json"
        if not path.exists():
            values = measure_endless(load(world, self._args.device), self._reader, frames, context)
            path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return row

    def _film_path(self, world: Path) -> Path:
        return self._folder / f"{world.parent.parent.name}-{world.parent.name}.npy"


def _between_halves(reader: Reader, one: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of two halves of the recorded frames."""
    return frechet(reader.features(one), reader.features(other)) if len(one) else float("nan")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
