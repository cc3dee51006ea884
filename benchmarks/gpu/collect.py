"""``python -m benchmarks.gpu.collect DIR``: what came back from a run, put together, checked and evaluated.

Worlds go to ``DIR/worlds``, logs and pictures to ``DIR/results``. Each world is held against its environment
on this machine's CPU, and against the shipped world of the same source where there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.pack import REPORT, RESULTS, join_pieces
from worldsim.checkpoint import find_world, load_world
from worldsim.errors import CheckpointError, DataError, WorldsimError
from worldsim.options import COUNT, Parser

__all__ = ["DECIDING_METRICS", "better", "check_report", "main", "unpack"]

DECIDING_METRICS = ("next_gain", "rollout16_psnr", "rollout64_psnr", "rollout16_action_gap")
"""Figures that say which of two worlds is better, those of them that both have."""


def main(argv: Sequence[str] | None = None) -> int:
    """0 where all worlds could be put together and evaluated."""
    args = _parser().parse_args(argv)
    try:
        problems = check_report(args.folder)
        worlds = unpack(args.folder, args.folder / "worlds")
        for problem in problems:
            print(f"collect: {problem}")
        for folder in worlds:
            stored = load_world(folder)
            millions = stored.networks.parameter_count() / 1e6
            print(f"{folder.name}: whole, {millions:.1f}M parameters, {folder}")
            if not args.no_eval:
                _evaluate_world(folder, args)
    except WorldsimError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 2
    return 1 if problems or not worlds else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.gpu.collect", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-eval", action="store_true", help="only put together and check")
    parser.add_argument("--trajectories", type=COUNT, help="of eval (default: those of --quick)")
    parser.add_argument("--against", help="world to compare with (default: the shipped one of the same name)")
    return parser


def check_report(folder: Path) -> list[str]:
    """Return the problems of the report, and pieces that differ from it.

    Raises:
        DataError: there is no report.
    """
    try:
        report = json.loads((folder / REPORT).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"a run's folder must have {REPORT}", str(folder), str(error)) from error
    parts = [part for part in report["parts"] if part["status"] != "done"]
    problems = [f"{part['name']} {part['status']} after {part['seconds']} s" for part in parts]
    for piece in (piece for pieces in report["worlds"].values() for piece in pieces):
        path = folder / piece["file"]
        if not path.is_file():
            problems.append(f"{piece['file']} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != piece["sha256"]:
            problems.append(f"{piece['file']} is not the one that the report tells of")
    return problems + report["problems"]


def unpack(folder: Path, target: Path) -> list[Path]:
    """The worlds in ``folder``, each in a folder of its name; logs and pictures go to ``results`` beside it.

    Raises:
        DataError: an archive is damaged.
    """
    worlds = []
    try:
        for name, data in join_pieces(folder).items():
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(target, filter="data")
            worlds.append(target / name)
        if (folder / RESULTS).exists():
            with tarfile.open(folder / RESULTS) as archive:
                archive.extractall(target.parent / "results", filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError("an archive must be whole", str(folder), str(error)) from error
    return worlds


def better(mine: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Compare two worlds by their ``eval --json``; return whether the first is better, and why.

    It is where at least one deciding figure lies above the other's 95 % interval, and none below.
    """
    above, reasons = [], []
    for name in DECIDING_METRICS:
        if name in mine["metrics"] and name in other["metrics"]:
            one, two = mine["metrics"][name], other["metrics"][name]
            low, high = two["ci"]
            above.append((one["value"] > high) - (one["value"] < low))
            reasons.append(f"{name} {one['value']:.2f} against {two['value']:.2f} ({low:.2f} to {high:.2f})")
    return bool(above) and min(above) >= 0 and max(above) > 0, reasons


def _evaluate_world(folder: Path, args: argparse.Namespace) -> None:
    """Evaluate a world and say how it stands."""
    mine = _evaluate(str(folder), folder.parent / f"{folder.name}-eval.json", args)
    for name in DECIDING_METRICS:
        if name in mine["metrics"]:
            row = mine["metrics"][name]
            between = f"lower reference {row['lower_reference']}, upper {row['upper_reference']}"
            print(f"  {name} {row['value']:.2f} {row['unit']}, {between}")
    against = args.against or mine["source"]
    try:
        find_world(against)
    except CheckpointError:
        print(f"  no shipped world {against} to compare with")
        return
    other = _evaluate(against, folder.parent / f"{Path(against).name}-shipped-eval.json", args)
    prediction, reasons = better(mine, other)
    print(f"  {'better than' if prediction else 'not better than'} {against}: {'; '.join(reasons)}")


def _evaluate(world: str, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run ``worldsim eval`` and return its JSON, also written to ``out``."""
    line = [sys.executable, "-m", "worldsim.cli", "eval", world, "--quick", "--json", "--device", "cpu"]
    if args.trajectories:
        line += ["--trajectories", str(args.trajectories)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DataError("a world must be evaluated", world, f"{' '.join(line)} ended with {done.returncode}")
    out.write_text(done.stdout)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


if __name__ == "__main__":
    sys.exit(main())
