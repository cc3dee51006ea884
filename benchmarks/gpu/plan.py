"""Plan of a run: its parts and their time limits."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from worldsim.errors import ConfigError
from worldsim.options import PROCESSES, SECONDS, Parser

__all__ = ["PARTS", "PartLimits", "RunPlan", "Training", "read_plan"]

PARTS = ("environment", "tests", "bench", "record", "train", "video")
"""In the order in which they are told; ``record`` runs beside the three before it."""


@dataclass(frozen=True, slots=True)
class Training:
    """A world to be trained: ``world:recipe:share``, and fields of the recipe after another colon."""

    world: str
    """The source, and the name of the world."""
    recipe: str
    share: float
    """Share of the time that is left for training; normalised."""
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of its folder and pieces."""
        return f"{self.world}-{self.recipe}"

    @staticmethod
    def read(text: str) -> Training:
        """Raises ConfigError where it is something else."""
        world, *rest = text.split(":")
        if not (world and 1 <= len(rest) <= 3):
            raise ConfigError("--train must be world:recipe:share[:field=value,...]", text)
        try:
            share = float(rest[1]) if len(rest) > 1 else 1.0
        except ValueError as error:
            raise ConfigError("a training's share must be a number", rest[1]) from error
        if share <= 0:
            raise ConfigError("a training's share must be positive", share)
        settings = tuple(rest[2].split(",")) if len(rest) > 2 else ()
        return Training(world, rest[0], share, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLimits:
    """Sizes and time limits of the parts, in seconds."""

    environment: float = 40
    tests: float = 90
    bench: float = 130
    record: float = 100
    workers: int = 12
    """Recording workers; the other cores launch kernels."""
    frames: int = 4_000_000
    """Maximum number of recorded frames; the time limit comes first."""
    before_train: float = 30
    """Seconds that a training takes before its first step and after its last: read data, compile, save."""
    train: float = float("inf")
    """Maximum seconds of one training."""
    video: float = 25
    pack: float = 10
    video_frames: int = 120
    """Frames of each video."""


REHEARSAL = PartLimits(
    environment=30,
    tests=90,
    bench=50,
    record=40,
    workers=2,
    frames=2500,
    before_train=30,
    train=20,
    video=30,
    pack=5,
    video_frames=16,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """All that a run knows."""

    out: Path
    budget: float
    device: str
    trainings: list[Training]
    only: tuple[str, ...] = PARTS
    data: dict[str, Path] = field(default_factory=dict)
    """Recorded before, by source."""
    size: str = "60x80"
    sizes: PartLimits = PartLimits()
    scratch: Path
    """Folder of data and runs: in memory, if there is enough of it."""
    is_rehearsal: bool = False
    bench_world: str = "doom-maze"

    @property
    def sources(self) -> list[str]:
        """Sources that are still to be recorded."""
        return sorted({training.world for training in self.trainings} - set(self.data))


def read_plan(argv: list[str], out: Path) -> RunPlan:
    """The plan of a command line.

    Raises:
        ConfigError: an unknown part, or a training that cannot be read.
    """
    args = _parser().parse_args(argv)
    only = tuple(args.only.split(",")) if args.only else PARTS
    if unknown := sorted(set(only) - set(PARTS)):
        raise ConfigError(f"a part must be one of {', '.join(PARTS)}", unknown)
    data = dict(pair.split("=", 1) for pair in args.data)
    chosen = args.train or (["take-cover:small:1" + _TINY] if args.rehearse else ["take-cover:small:1"])
    trainings = [Training.read(text) for text in chosen]
    if len({training.name for training in trainings}) < len(trainings):
        raise ConfigError("a world can be trained once by a recipe", chosen, "name another recipe")
    return RunPlan(
        out=out,
        budget=args.budget or (220 if args.rehearse else 540),
        device=args.device or ("cpu" if args.rehearse else "cuda"),
        trainings=trainings,
        only=only,
        data={source: Path(folder) for source, folder in data.items()},
        size=args.size,
        sizes=REHEARSAL if args.rehearse else PartLimits(workers=args.workers),
        scratch=Path(args.scratch) if args.scratch else _scratch(),
        is_rehearsal=args.rehearse,
        bench_world=args.bench_world,
    )


_TINY = ":width=48,layers=2,tokenizer_width=16,tokenizer_depth=1,channels=16,context=4,length=5,batch=2"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="benchmarks/gpu/run.sh", description=__doc__)
    add = parser.add_argument
    add("--budget", type=SECONDS, help="seconds for everything (540; 220 with --rehearse)")
    add("--train", action="append", default=[], metavar="WORLD:RECIPE:SHARE", help="a world; repeatable")
    add("--rehearse", action="store_true", help="tiny sizes on a CPU; exit 1 where the real run would fail")
    add("--only", help=f"comma-separated, of {', '.join(PARTS)}")
    add("--data", action="append", default=[], metavar="SOURCE=DIR", help="recorded before; repeatable")
    add("--size", default="60x80", help="HxW of recorded frames")
    workers = max(1, (os.cpu_count() or 1) - 4)
    add("--workers", type=PROCESSES, default=workers, help="that record")
    add("--device", help="cuda; cpu with --rehearse")
    add("--scratch", help="folder for data and runs (memory where there is enough, else a temporary one)")
    add("--bench-world", default="doom-maze", help="the world that is timed")
    return parser


def _scratch(needed: int = 40 * 2**30) -> Path:
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > needed
    return Path(tempfile.mkdtemp(prefix="worldsim-gpu-", dir=memory if has_room else None))
