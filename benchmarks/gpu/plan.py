"""Plan of a run: recordings, lanes of programs side by side, and their time limits."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldsim.config import from_dict
from worldsim.errors import ConfigError
from worldsim.options import PROCESSES, SECONDS, Parser

__all__ = ["PARTS", "Lane", "PartLimits", "RecordingPlan", "RunPlan", "Step", "Training", "read_plan"]

PARTS = ("environment", "tests", "bench", "record", "train", "video")
"""In the order in which they are told; ``record`` runs beside the three before it."""
CHECKS = "checks"
"""Name of the lane of environment, tests and timings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A program of a lane. Its command may hold {worldsim}, {python}, {data}, {runs}, {minutes}, {device}."""

    name: str
    command: str
    """For a shell."""
    share: float = 1.0
    """Share of the time that its lane has left, beside the steps after it."""
    seconds: float | None = None
    """Its limit; None: the share."""
    world: str = ""
    """Folder of a world below the runs that comes back, in pieces named after the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Programs that run one after the other, beside all other lanes."""

    name: str
    steps: tuple[Step, ...]
    needs: tuple[str, ...] = ()
    """Recordings and lanes that must have ended before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPlan:
    """A recording; all begin at once, and are told to end after their seconds, if they have not yet."""

    name: str
    command: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _PlanFile:
    """Contents of a plan's file."""

    record: tuple[RecordingPlan, ...] = ()
    lane: tuple[Lane, ...] = ()


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
    tests: float = 120
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
    timing: float = 44
    """Timings of a world that has been trained."""
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
    trainings: tuple[Training, ...] = ()
    recordings: tuple[RecordingPlan, ...]
    lanes: tuple[Lane, ...]
    only: tuple[str, ...] = PARTS
    data: dict[str, Path] = field(default_factory=dict)
    """Recorded before, by source."""
    sizes: PartLimits = PartLimits()
    scratch: Path
    """Folder of data and runs: in memory, if there is enough of it."""
    is_rehearsal: bool = False
    keeps_scratch: bool = False

    @property
    def worlds(self) -> dict[str, Path]:
        """Folders of the worlds that come back, by the names of their pieces."""
        runs = self.scratch / "runs"
        return {step.name: runs / step.world for lane in self.lanes for step in lane.steps if step.world}


def read_plan(argv: list[str], out: Path) -> RunPlan:
    """The plan of a command line.

    Raises:
        ConfigError: an unknown part, a training or a plan's file that cannot be read.
    """
    args = _parser().parse_args(argv)
    only = tuple(args.only.split(",")) if args.only else PARTS
    if unknown := sorted(set(only) - set(PARTS)):
        raise ConfigError(f"a part must be one of {', '.join(PARTS)}", unknown)
    if args.plan and args.train:
        raise ConfigError("a run has a plan's file or trainings", args.train, "leave --train out")
    data = {source: Path(folder) for source, folder in (pair.split("=", 1) for pair in args.data)}
    chosen = args.train or (["take-cover:small:1" + _TINY] if args.rehearse else ["take-cover:small:1"])
    trainings = () if args.plan else tuple(map(Training.read, chosen))
    if len({training.name for training in trainings}) < len(trainings):
        raise ConfigError("a world can be trained once by a recipe", chosen, "name another recipe")
    sizes = REHEARSAL if args.rehearse else PartLimits(workers=args.workers)
    given = _read_file(args.plan) if args.plan else _PlanFile()
    recordings = given.record if args.plan else _recordings(trainings, data, sizes, args.size)
    checks = _checks(only, sizes, args)
    own = given.lane if args.plan else _lanes(trainings, only, sizes, args)
    return RunPlan(
        out=out,
        budget=args.budget or (220 if args.rehearse else 540),
        device=args.device or ("cpu" if args.rehearse else "cuda"),
        trainings=trainings,
        recordings=recordings if "record" in only else (),
        lanes=(*([checks] if checks.steps else []), *(own if "train" in only else ())),
        only=only,
        data=data,
        sizes=sizes,
        scratch=Path(args.scratch) if args.scratch else _scratch(),
        is_rehearsal=args.rehearse,
        keeps_scratch=args.keep,
    )


_TINY = ":width=48,layers=2,tokenizer_width=16,tokenizer_depth=1,channels=16,context=4,length=5,batch=2"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="benchmarks/gpu/run.sh", description=__doc__)
    add = parser.add_argument
    add("--budget", type=SECONDS, help="seconds for everything (540; 220 with --rehearse)")
    add("--train", action="append", default=[], metavar="WORLD:RECIPE:SHARE", help="a world; repeatable")
    add("--plan", type=Path, help="TOML file with recordings and lanes of programs, instead of --train")
    add("--rehearse", action="store_true", help="tiny sizes on a CPU; exit 1 where the real run would fail")
    add("--only", help=f"comma-separated, of {', '.join(PARTS)}")
    add("--data", action="append", default=[], metavar="SOURCE=DIR", help="recorded before; repeatable")
    add("--size", default="60x80", help="HxW of recorded frames")
    workers = max(1, (os.cpu_count() or 1) - 4)
    add("--workers", type=PROCESSES, default=workers, help="that record")
    add("--device", help="cuda; cpu with --rehearse")
    add("--scratch", help="folder for data and runs (memory where there is enough, else a temporary one)")
    add("--keep", action="store_true", help="leave that folder: another run goes on with it")
    add("--bench-world", default="doom-maze", help="the world that is timed")
    return parser


def _read_file(path: Path) -> _PlanFile:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("a plan must be a TOML file", str(path), str(error)) from error
    plan = from_dict(_PlanFile, told)
    names = [step.name for lane in plan.lane for step in lane.steps]
    if len(set(names)) < len(names):
        raise ConfigError("steps of a plan must have names of their own", sorted(names), "rename one")
    known = {CHECKS, *(one.name for one in plan.record), *(lane.name for lane in plan.lane)}
    for lane in plan.lane:
        if unknown := sorted(set(lane.needs) - known):
            raise ConfigError(f"a lane needs recordings or lanes of {', '.join(sorted(known))}", unknown)
    return plan


def _recordings(
    trainings: Sequence[Training], data: dict[str, Path], sizes: PartLimits, size: str
) -> tuple[RecordingPlan, ...]:
    """A recording of each source that is still needed; they share the workers."""
    sources = sorted({training.world for training in trainings} - set(data))
    workers = max(1, sizes.workers // max(1, len(sources)))
    words = f"--size {size} --codec raw --workers {workers} --frames {sizes.frames}"
    return tuple(
        RecordingPlan(
            name=source,
            command=f"nice -n 10 {{worldsim}} record {source} {words} --out {{data}}/{source}",
            seconds=sizes.record,
        )
        for source in sources
    )


def _checks(only: tuple[str, ...], sizes: PartLimits, args: argparse.Namespace) -> Lane:
    """Environment, tests and timings, those that are wanted."""
    quick = " --quick" if args.rehearse else ""
    # A rehearsal trains anyway.
    tests = "{python} -m pytest -m gpu tests/gpu -ra --junitxml={logs}/tests.xml"
    seconds = 0.7 * sizes.bench
    told = "--device {device} --out {logs}"
    bench = f"bench {told}/bench.json --world {args.bench_world} --seconds {seconds:g}{quick}"
    commands = {
        "environment": "{python} -m benchmarks.gpu.environment " + f"{told}/environment.json{quick}",
        "tests": tests + (" -k 'not training'" if args.rehearse else ""),
        "bench": "{python} -m benchmarks.gpu." + bench,
    }
    steps = [
        Step(name=name, command=command, seconds=getattr(sizes, name))
        for name, command in commands.items()
        if name in only
    ]
    return Lane(name=CHECKS, steps=tuple(steps))


def _lanes(
    trainings: Sequence[Training], only: tuple[str, ...], sizes: PartLimits, args: argparse.Namespace
) -> tuple[Lane, ...]:
    """One lane: every training, with a video and timings of each."""
    steps: list[Step] = []
    data = dict(pair.split("=", 1) for pair in args.data)
    for training in trainings:
        folder = data.get(training.world, f"{{data}}/{training.world}")
        world = f"{training.name}/{training.world}"
        command = f"{{worldsim}} train {training.world} --recipe {training.recipe} --data {folder} "
        command += f"--out {{runs}}/{training.name} --minutes {{minutes}} --device {{device}}"
        command += "".join(f" --set {shlex.quote(setting)}" for setting in training.settings)
        steps.append(Step(name=training.name, command=command, share=training.share, world=world))
        told = f"{{runs}}/{world} --device {{device}}"
        if "video" in only:
            video = f"{{python}} -m benchmarks.gpu.video {told} --out {{logs}} --frames {sizes.video_frames}"
            steps.append(Step(name=f"video-{training.name}", command=video, seconds=sizes.video))
        if "bench" in only:
            quick = " --quick" if args.rehearse else ""
            bench = f"{{python}} -m benchmarks.gpu.bench --world {told} --seconds {0.3 * sizes.timing:g} "
            bench += f"--out {{logs}}/bench-{training.name}.json --each 0.4 --batch 1 256{quick}"
            steps.append(Step(name=f"bench-{training.name}", command=bench, seconds=sizes.timing))
    # Timings want the machine for themselves: nothing trains before they are done.
    sources = {training.world for training in trainings} - set(data)
    needs = {CHECKS, *(sources if "record" in only else ())}
    return (Lane(name="train", steps=tuple(steps), needs=tuple(sorted(needs))),)


def _scratch(needed: int = 40 * 2**30) -> Path:
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > needed
    return Path(tempfile.mkdtemp(prefix="worldsim-gpu-", dir=memory if has_room else None))


def filled(command: str, plan: RunPlan, **more: Any) -> list[str]:
    """A step's command with its names filled in, for a shell."""
    python = shlex.quote(sys.executable)
    known = {
        "python": python,
        "worldsim": f"{python} -m worldsim.cli",
        "data": plan.scratch / "data",
        "runs": plan.scratch / "runs",
        "logs": plan.scratch / "logs",
        "device": plan.device,
        **more,
    }
    for name, value in known.items():
        command = command.replace("{" + name + "}", str(value))
    return ["bash", "-c", command]
