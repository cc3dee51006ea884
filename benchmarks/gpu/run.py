"""One run: starts the parts, watches their limits, packs what there is."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu.pack import REPORT, Piece, pack_results, pack_world, put
from benchmarks.gpu.plan import RunPlan, Training
from benchmarks.gpu.process import Outcome, Program
from worldsim.errors import WorldsimError

__all__ = ["Run"]

_TIMED = 22.0
"""Seconds in which a world that has been trained is timed; twice as many are its limit."""
_PACK_EVERY = 15.0
"""Seconds between looks for a newer state of a world in training."""


class Run:
    """Parts in order within a budget of seconds, which began at ``began`` (seconds since the epoch)."""

    def __init__(self, plan: RunPlan, began: float) -> None:
        self.plan = plan
        self._end = time.monotonic() + plan.budget - (time.time() - began)
        self._logs = plan.scratch / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._outcomes: list[Outcome] = []
        self._pieces: dict[str, list[Piece]] = {}
        self._problems: list[str] = []
        self._packed: dict[str, float] = {}
        self._recorders: list[Program] = []
        self._now: Program | None = None  # the part that is waited for
        self._looked = 0.0

    def run(self) -> bool:
        """All parts; True where every one was done."""
        try:
            self._keep()
            self._start_recorders()
            for name in ("environment", "tests", "bench"):
                if name in self.plan.only:
                    self._do(name, self._command(name), getattr(self.plan.sizes, name))
            while self._recorders:
                self._tick()
                time.sleep(0.2)
            if "train" in self.plan.only:
                self._train_all()
        except KeyboardInterrupt:
            self._problems.append("interrupted")
            self._stop_all()
        except Exception as error:
            self._problems.append(f"{type(error).__name__}: {error}")
        self._keep()
        self._print()
        return not self._problems and all(outcome.status == "done" for outcome in self._outcomes)

    @property
    def left(self) -> float:
        """Seconds until everything must be packed."""
        return self._end - time.monotonic() - self.plan.sizes.pack

    def _start_recorders(self) -> None:
        """One for each source, at once: they share the cores."""
        plan = self.plan
        if "record" not in plan.only or not plan.sources:
            return
        workers = max(1, plan.sizes.workers // len(plan.sources))
        for source in plan.sources:
            command = ["nice", "-n", "10", sys.executable, "-m", "worldsim.cli", "record", source]
            command += ["--size", plan.size, "--codec", "raw", "--workers", str(workers)]
            command += ["--frames", str(plan.sizes.frames), "--out", str(self._data(source))]
            self._recorders.append(
                Program(
                    f"record-{source}",
                    command,
                    self._logs,
                    min(plan.sizes.record, self.left),
                    stop=signal.SIGINT,  # what is recorded is gathered then
                    grace=90,
                    may_be_stopped=True,
                    env={"OMP_NUM_THREADS": "1"},
                )
            )

    def _command(self, name: str) -> list[str]:
        plan = self.plan
        if name == "tests":
            junit = self._logs / "tests.xml"
            line = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-ra", f"--junitxml={junit}"]
            return line + (["-k", "not training"] if plan.is_rehearsal else [])  # which is rehearsed itself
        line = [sys.executable, "-m", f"benchmarks.gpu.{name}", "--device", plan.device]
        line += ["--out", str(self._logs / f"{name}.json")]
        if name == "bench":
            line += ["--world", plan.bench_world, "--seconds", str(0.7 * plan.sizes.bench)]
        return line + (["--quick"] if plan.is_rehearsal else [])

    def _train_all(self) -> None:
        """Every training with its share of what is left, and a video of each that there is time for."""
        trainings, sizes = self.plan.trainings, self.plan.sizes
        shares = [training.share for training in trainings]
        for i, training in enumerate(trainings):
            after = sizes.video * ("video" in self.plan.only) + _TIMED * ("bench" in self.plan.only)
            left = self.left - after * len(trainings[i:])
            self._train(training, left * shares[i] / sum(shares[i:]))
            world = self._world(training)
            if "video" in self.plan.only and world.exists() and self.left > 5:
                command = [sys.executable, "-m", "benchmarks.gpu.video", str(world), "--out", str(self._logs)]
                command += ["--device", self.plan.device, "--frames", str(sizes.video_frames)]
                self._do(f"video-{training.name}", command, min(sizes.video, self.left))
            if "bench" in self.plan.only and world.exists() and self.left > 5:
                self._time(training)

    def _time(self, training: Training) -> None:
        """Time a world of its own, when nothing is recorded any more."""
        name = f"bench-{training.name}"
        line = [sys.executable, "-m", "benchmarks.gpu.bench", "--world", str(self._world(training))]
        line += ["--device", self.plan.device, "--out", str(self._logs / f"{name}.json")]
        line += ["--seconds", str(0.6 * _TIMED), "--each", "0.4", "--batch", "1", "256"]
        self._do(name, line + (["--quick"] if self.plan.is_rehearsal else []), 2 * _TIMED)

    def _train(self, training: Training, seconds: float) -> None:
        minutes = min(seconds - self.plan.sizes.before_train, self.plan.sizes.train) / 60
        if minutes <= 0.05:
            self._problems.append(f"no time was left to train {training.name}: {seconds:.0f} s")
            return
        command = [sys.executable, "-m", "worldsim.cli", "train", training.world, "--recipe", training.recipe]
        command += ["--data", str(self._data(training.world)), "--out", str(self._world(training).parent)]
        command += ["--minutes", f"{minutes:.3f}", "--device", self.plan.device]
        for setting in training.settings:
            command += ["--set", setting]
        program = Program(f"train-{training.name}", command, self._logs, seconds - 5)
        self._wait(program)

    def _do(self, name: str, command: list[str], limit: float) -> None:
        limit = min(limit, self.left)
        if limit > 1:
            env = {"WORLDSIM_TEST_DEVICE": self.plan.device}
            self._wait(Program(name, command, self._logs, limit, grace=5, env=env))

    def _wait(self, program: Program) -> None:
        self._now = program
        self._note(program.wait(self._tick))
        self._now = None

    def _tick(self) -> None:
        """Look after the recorders' limits, and for worlds that a training has written."""
        for recorder in list(self._recorders):
            if (outcome := recorder.poll()) is not None:
                self._recorders.remove(recorder)
                self._note(outcome)
        self._pack_worlds(_PACK_EVERY)

    def _stop_all(self) -> None:
        """Let what runs save what it has; it has its grace for that."""
        running = [*self._recorders, *([self._now] if self._now else [])]
        for program in running:
            program.stop()
        for program in running:
            self._note(program.wait())

    def _note(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        print(f"{outcome.name}: {outcome.status} in {outcome.seconds} s (limit {outcome.limit})", flush=True)
        self._keep()

    def _keep(self) -> None:
        """Pack all that there is, worlds first."""
        self._pack_worlds(0.0)
        files = [(path, path.name) for path in sorted(self._logs.iterdir()) if path.is_file()]
        for training in self.plan.trainings:
            run = self._world(training).parent
            shown = [*sorted(run.glob("samples-*.png"))[-4:], *sorted(run.glob("tensorboard/*"))]
            files += [(path, f"{training.name}/{path.name}") for path in shown if path.is_file()]
        setup = Path(os.environ.get("WORLDSIM_SETUP_LOG", ""))
        files += [(setup, "setup.log")] if setup.is_file() else []
        try:
            left_out = pack_results(files, self.plan.out)
        except OSError as error:  # a file that was just being replaced: the next time
            left_out = [str(error)]
        self._report(left_out)

    def _pack_worlds(self, every: float) -> None:
        """Pack each world that is newer than what was packed."""
        if time.monotonic() - self._looked < every:
            return
        self._looked, before = time.monotonic(), dict(self._packed)
        for training in self.plan.trainings:
            folder = self._world(training)
            try:
                made = (folder / "SHA256SUMS").stat().st_mtime
                if made != self._packed.get(training.name):
                    self._pieces[training.name] = pack_world(folder, self.plan.out, training.name)
                    self._packed[training.name] = made
            except OSError:  # none yet, or just being replaced
                continue
            except WorldsimError as error:
                self._packed[training.name] = made
                self._problems.append(str(error))
        if before != self._packed:
            self._report([])

    def _report(self, left_out: list[str]) -> None:
        report = {
            "budget": self.plan.budget,
            "left": round(self.left, 1),
            "rehearsal": self.plan.is_rehearsal,
            "device": self.plan.device,
            "parts": [asdict(outcome) for outcome in self._outcomes],
            "trainings": [asdict(training) for training in self.plan.trainings],
            "worlds": {name: [asdict(piece) for piece in pieces] for name, pieces in self._pieces.items()},
            "left_out": left_out,
            "problems": self._problems,
        }
        put(self.plan.out / REPORT, (json.dumps(report, indent=1) + "\n").encode())

    def _print(self) -> None:
        for outcome in self._outcomes:
            if outcome.status != "done":
                print(f"\n{outcome.name}, {outcome.status}:\n{outcome.tail}")
        for problem in self._problems:
            print(f"problem: {problem}")
        print(f"{self.left:.0f} s are left; see {self.plan.out}", flush=True)

    def _data(self, source: str) -> Path:
        return self.plan.data.get(source, self.plan.scratch / "data" / source)

    def _world(self, training: Training) -> Path:
        return self.plan.scratch / "runs" / training.name / training.world
