"""One run: starts recordings and lanes, watches their limits, packs what there is."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gpu.pack import REPORT, Piece, pack_results, pack_world, put
from benchmarks.gpu.plan import Lane, RunPlan, Step, filled
from benchmarks.gpu.process import Outcome, Program
from worldsim.errors import WorldsimError

__all__ = ["Run"]

_PACK_EVERY = 15.0
"""Seconds between looks for a newer state of a world in training."""
_POLL = 0.2


@dataclass
class _LaneState:
    """A lane, the steps that are still to come, and the program that runs."""

    lane: Lane
    steps: list[Step] = field(default_factory=list)
    program: Program | None = None

    @property
    def is_done(self) -> bool:
        return not self.steps and self.program is None


class Run:
    """Recordings and lanes within a budget of seconds, which began at ``began`` (seconds since the epoch)."""

    def __init__(self, plan: RunPlan, began: float) -> None:
        self.plan = plan
        self._end = time.monotonic() + plan.budget - (time.time() - began)
        self._logs = plan.scratch / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._outcomes: list[Outcome] = []
        self._pieces: dict[str, list[Piece]] = {}
        self._problems: list[str] = []
        self._packed: dict[str, float] = {}
        self._recorders: dict[str, Program] = {}
        self._lanes = [_LaneState(lane, list(lane.steps)) for lane in plan.lanes]
        self._looked = 0.0

    def run(self) -> bool:
        """All parts; True where every one was done."""
        try:
            self._keep()
            self._start_recorders()
            while self._recorders or not all(state.is_done for state in self._lanes):
                self._tick()
                for state in self._lanes:
                    self._advance(state)
                time.sleep(_POLL)
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
        """All at once: they share the cores."""
        for recording in self.plan.recordings:
            self._recorders[recording.name] = Program(
                f"record-{recording.name}",
                filled(recording.command, self.plan),
                self._logs,
                min(recording.seconds, self.left),
                stop=signal.SIGINT,  # what is recorded is gathered then
                grace=90,
                may_be_stopped=True,
                env={"OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"},
            )

    def _advance(self, state: _LaneState) -> None:
        """Note a program that has ended; start the next one of a lane that may go on."""
        if state.program is not None:
            if (outcome := state.program.poll()) is None:
                return
            state.program = None
            self._note(outcome)
        undone = {*self._recorders, *(other.lane.name for other in self._lanes if not other.is_done)}
        if not state.steps or undone & set(state.lane.needs):
            return
        step = state.steps.pop(0)
        limit = self._limit(step, state.steps)
        minutes = min(limit - self.plan.sizes.before_train, self.plan.sizes.train) / 60
        if limit <= 1 or ("{minutes}" in step.command and minutes <= 0.05):
            self._problems.append(f"no time was left for {step.name}: {limit:.0f} s")
            return
        command = filled(step.command, self.plan, minutes=f"{minutes:.3f}")
        env = {"WORLDSIM_TEST_DEVICE": self.plan.device}
        state.program = Program(step.name, command, self._logs, limit, env=env)

    def _limit(self, step: Step, later: list[Step]) -> float:
        """Seconds of a step, of which others of its lane come later."""
        if step.seconds is not None:
            return min(step.seconds, self.left)
        free = self.left - sum(one.seconds for one in later if one.seconds is not None)
        shares = step.share + sum(one.share for one in later if one.seconds is None)
        return free * step.share / shares - 5

    def _tick(self) -> None:
        """Look after the recorders' limits, and for worlds that a training has written."""
        for name, recorder in list(self._recorders.items()):
            if (outcome := recorder.poll()) is not None:
                del self._recorders[name]
                self._note(outcome)
        self._pack_worlds(_PACK_EVERY)

    def _stop_all(self) -> None:
        """Let what runs save what it has; it has its grace for that."""
        running = [*self._recorders.values(), *(state.program for state in self._lanes if state.program)]
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
        for name, world in self.plan.worlds.items():
            shown = [*sorted(world.parent.glob("samples-*.png"))[-4:], *world.parent.glob("tensorboard/*")]
            files += [(path, f"{name}/{path.name}") for path in sorted(shown) if path.is_file()]
        for path in sorted((self.plan.scratch / "runs").glob("*/results/**/*")):  # of any program
            if path.is_file():
                files.append((path, str(path.relative_to(self.plan.scratch / "runs"))))
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
        for name, folder in self.plan.worlds.items():
            try:
                made = (folder / "SHA256SUMS").stat().st_mtime
                if made != self._packed.get(name):
                    self._pieces[name] = pack_world(folder, self.plan.out, name)
                    self._packed[name] = made
            except OSError:  # none yet, or just being replaced
                continue
            except WorldsimError as error:
                self._packed[name] = made
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
            "lanes": [asdict(lane) for lane in self.plan.lanes],
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
