"""Whether a dream can be repeated to the bit, whatever happens around it.

A session's frames depend on seed, start and controls alone: not on its batch, slot or thread, nor on being
forked, parked, kept and restored, rewound, or dreamt by another process of the machine.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from worldsim.bench.steps import open_sessions
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.engine.world import World, load
from worldsim.kernels.library import in_use, set_aside

_SLOTS, _ROOM = 6, 9
_HOLD = 8
"""Frames for which keys are held."""


@dataclass(slots=True)
class Report:
    """What happened and what came of it."""

    frames: int
    mismatches: int = 0
    """Frames, poses, rewards or drifts that were not the same to the bit."""
    first: int | None = None
    """The first frame that was not."""
    events: dict[str, int] = field(default_factory=dict)
    """How often each thing happened to the session."""
    process: str = ""
    """"same" or "other": whether a process of its own dreamt the same frames."""
    batch_invariant: bool = True
    """Whether rows are stepped together; else every row is stepped alone."""
    thread_invariant: bool = True
    """Whether a row alone has all threads; else it has one."""

    @property
    def fallback(self) -> str:
        """What was done where torch does not repeat by itself; empty where it does."""
        if self.batch_invariant and self.thread_invariant:
            return ""
        rows = "a row was stepped" if self.batch_invariant else "every row was stepped alone"
        threads = "" if self.thread_invariant else " with one thread"
        return f"{rows}{threads}: torch adds up in another order in a batch or on more threads here"


def reproduce(world: World, frames: int, seed: int = 0, name: str | None = None) -> Report:
    """Dream twice, once alone and once in trouble, and compare every frame.

    ``name``: how a process of its own loads the world, to compare that as well.
    """
    alone, trouble = _Alone(world, seed), _Trouble(world, seed)
    held = world.invariance
    report, told = Report(frames, batch_invariant=held.batch, thread_invariant=held.threads), hashlib.sha256()
    for t in range(frames):
        control = control_at(world, seed, t)
        true = digest(alone.step(control))
        told.update(true)
        if digest(trouble.step(control)) != true:
            report.mismatches += 1
            report.first = t if report.first is None else report.first
    report.events = dict(sorted(trouble.events.items()))
    if name is not None:
        report.process = "same" if _in_a_process(world, name, frames, seed) == told.hexdigest() else "other"
    return report


def control_at(world: World, seed: int, t: int) -> Control:
    """What is held at frame ``t``: a discrete action, drawn anew every 8 frames."""
    space = world.spec.control_space
    rng = np.random.default_rng([seed, t // _HOLD])
    return space.from_discrete(int(rng.integers(len(space.combos))))


def digest(step: Step) -> bytes:
    """sha256 of all that a step answers."""
    arrays = (step.frame, step.pose, step.latent, np.array([step.reward, step.drift], float))
    return hashlib.sha256(b"".join(part.tobytes() for part in arrays if part is not None)).digest()


def told_alone(world: World, frames: int, seed: int) -> str:
    """sha256 of all digests of the session alone."""
    alone, told = _Alone(world, seed), hashlib.sha256()
    for t in range(frames):
        told.update(digest(alone.step(control_at(world, seed, t))))
    return told.hexdigest()


class _Alone:
    """The session by itself."""

    def __init__(self, world: World, seed: int) -> None:
        self._session = _begin(world.engine(1, history=0), seed)

    def step(self, control: Control) -> Step:
        return self._session.step(control)


class _Trouble:
    """The same session among others, tossed about before every step."""

    def __init__(self, world: World, seed: int) -> None:
        parking = (_ROOM - _SLOTS) * world.engine(1).session_bytes
        self._engine = world.engine(_SLOTS, history=8, parking=parking)
        self._rng = np.random.default_rng([seed, 1])
        self._session = _begin(self._engine, seed)
        self._others = open_sessions(self._engine, 4)
        self._past: list[Control] = []
        self.events: dict[str, int] = {}

    def step(self, control: Control) -> Step:
        tosses = (self._fork, self._park, self._restore, self._rewind, self._nothing)
        tosses[self._rng.integers(len(tosses))]()
        company = self._rng.permutation(len(self._others))[: self._rng.integers(len(self._others) + 1)]
        batch = {self._others[i]: Control(look=0.1) for i in company}
        self._note(f"batch of {len(batch) + 1}")
        self._past.append(control)
        return self._engine.step({**batch, self._session: control})[self._session]

    def _note(self, event: str) -> None:
        self.events[event] = self.events.get(event, 0) + 1

    def _nothing(self) -> None:
        self._note("nothing")

    def _fork(self) -> None:
        """Go on as a copy of itself."""
        self._replace(self._session.fork()[0], "fork")

    def _restore(self) -> None:
        """Go on from a snapshot."""
        self._replace(self._engine.restore(self._session.snapshot()), "restore")

    def _park(self) -> None:
        self._engine.park(self._session)
        self._note("park")

    def _rewind(self) -> None:
        """Go back some frames and dream them again."""
        back = min(self._session.rewindable, 1 + int(self._rng.integers(4)))
        if back:
            self._session.rewind(back)
            for control in self._past[-back:]:
                self._session.step(control)
            self._note("rewind")

    def _replace(self, session: Session, event: str) -> None:
        self._session.close()
        self._session = session
        self._note(event)


def _begin(engine: Engine, seed: int) -> Session:
    return engine.open(seed, 0) if engine.world.starts else open_sessions(engine, 1)[0]


def _in_a_process(world: World, name: str, frames: int, seed: int) -> str:
    """The result of ``told_alone`` in a process of its own."""
    dtype = str(world.dtype).removeprefix("torch.")
    told = [dtype, str(torch.get_num_threads()), in_use() or "", str(world.device)]
    line = [sys.executable, "-m", "worldsim.bench.reproduce", name, str(frames), str(seed), *told]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def _main(name: str, frames: str, seed: str, dtype: str, threads: str, kernels: str, device: str) -> None:
    torch.set_num_threads(int(threads))
    with nullcontext() if kernels else set_aside():
        world = load(name, device, getattr(torch, dtype))
        print(told_alone(world, int(frames), int(seed)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
