"""Determinism: a session's frames are the same to the bit, whatever happens around it.

They depend on seed, start and controls alone: not on batch, slot, thread or process, nor on being forked,
offloaded, restored from a snapshot, or rewound.
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
from worldsim.kernels.library import active_variant, kernels_disabled

_SLOTS, _SESSIONS = 6, 9
_HOLD = 8
"""Frames for which keys are held."""


@dataclass(slots=True)
class DeterminismReport:
    """Perturbations of the session, and frames that differed."""

    frames: int
    mismatches: int = 0
    """Steps whose frame, pose, latent, reward or uncertainty differed."""
    first_mismatch: int | None = None
    """First frame that differed."""
    events: dict[str, int] = field(default_factory=dict)
    """Number of perturbations of each kind."""
    other_process: str = ""
    """Result of another process: "same" or "different"; empty where none was run."""
    batch_invariant: bool = True
    """Rows are stepped together; else every row is stepped alone."""
    thread_invariant: bool = True
    """A row that is stepped alone uses all threads; else one."""

    @property
    def fallback(self) -> str:
        """Description of the slower path that was used where torch is not invariant; else empty."""
        if self.batch_invariant and self.thread_invariant:
            return ""
        rows = "a row was stepped" if self.batch_invariant else "every row was stepped alone"
        threads = "" if self.thread_invariant else " with one thread"
        return f"{rows}{threads}: torch adds up in another order in a batch or on more threads here"


def check_determinism(world: World, frames: int, seed: int = 0, name: str | None = None) -> DeterminismReport:
    """Run a session twice, once alone and once perturbed, and compare every step.

    ``name``: name or folder with which another process loads the world, to compare its frames as well.
    """
    reference, perturbed = _Reference(world, seed), _Perturbed(world, seed)
    invariance = world.invariance
    report = DeterminismReport(frames, batch_invariant=invariance.batch, thread_invariant=invariance.threads)
    hashed = hashlib.sha256()
    for t in range(frames):
        control = control_at(world, seed, t)
        true = digest(reference.step(control))
        hashed.update(true)
        if digest(perturbed.step(control)) != true:
            report.mismatches += 1
            report.first_mismatch = t if report.first_mismatch is None else report.first_mismatch
    report.events = dict(sorted(perturbed.events.items()))
    if name is not None:
        is_same = _other_process(world, name, frames, seed) == hashed.hexdigest()
        report.other_process = "same" if is_same else "different"
    return report


def control_at(world: World, seed: int, t: int) -> Control:
    """Return the control of frame ``t``: a discrete action, drawn anew every 8 frames."""
    space = world.spec.control_space
    rng = np.random.default_rng([seed, t // _HOLD])
    return space.from_discrete(int(rng.integers(len(space.discrete_actions))))


def digest(step: Step) -> bytes:
    """Return the sha256 of all arrays of a step."""
    arrays = (step.frame, step.pose, step.latent, np.array([step.reward, step.uncertainty], float))
    return hashlib.sha256(b"".join(part.tobytes() for part in arrays if part is not None)).digest()


def reference_digest(world: World, frames: int, seed: int) -> str:
    """Return the sha256 of the digests of all steps of the session alone."""
    reference, hashed = _Reference(world, seed), hashlib.sha256()
    for t in range(frames):
        hashed.update(digest(reference.step(control_at(world, seed, t))))
    return hashed.hexdigest()


class _Reference:
    """The session alone in its engine."""

    def __init__(self, world: World, seed: int) -> None:
        self._session = _open(world.engine(1, rewind_frames=0), seed)

    def step(self, control: Control) -> Step:
        return self._session.step(control)


class _Perturbed:
    """The same session among others, perturbed before every step."""

    def __init__(self, world: World, seed: int) -> None:
        offload_bytes = (_SESSIONS - _SLOTS) * world.engine(1).session_bytes
        self._engine = world.engine(_SLOTS, rewind_frames=8, offload_bytes=offload_bytes)
        self._rng = np.random.default_rng([seed, 1])
        self._session = _open(self._engine, seed)
        self._others = open_sessions(self._engine, 4)
        self._past: list[Control] = []
        self.events: dict[str, int] = {}

    def step(self, control: Control) -> Step:
        perturbations = (self._fork, self._offload, self._restore, self._rewind, self._no_op)
        perturbations[self._rng.integers(len(perturbations))]()
        company = self._rng.permutation(len(self._others))[: self._rng.integers(len(self._others) + 1)]
        batch = {self._others[i]: Control(yaw=0.1) for i in company}
        self._note(f"batch of {len(batch) + 1}")
        self._past.append(control)
        return self._engine.step({**batch, self._session: control})[self._session]

    def _note(self, event: str) -> None:
        self.events[event] = self.events.get(event, 0) + 1

    def _no_op(self) -> None:
        self._note("none")

    def _fork(self) -> None:
        """Continue as a fork."""
        self._replace(self._session.fork()[0], "fork")

    def _restore(self) -> None:
        """Continue from a snapshot."""
        self._replace(self._engine.restore(self._session.snapshot()), "restore")

    def _offload(self) -> None:
        self._engine.offload(self._session)
        self._note("offload")

    def _rewind(self) -> None:
        """Rewind some frames and step them again."""
        back = min(self._session.max_rewind, 1 + int(self._rng.integers(4)))
        if back:
            self._session.rewind(back)
            for control in self._past[-back:]:
                self._session.step(control)
            self._note("rewind")

    def _replace(self, session: Session, event: str) -> None:
        self._session.close()
        self._session = session
        self._note(event)


def _open(engine: Engine, seed: int) -> Session:
    return engine.open(seed, 0) if engine.world.starts else open_sessions(engine, 1)[0]


def _other_process(world: World, name: str, frames: int, seed: int) -> str:
    """Return the result of ``reference_digest`` in another process."""
    dtype = str(world.dtype).removeprefix("torch.")
    settings = [dtype, str(torch.get_num_threads()), active_variant() or "", str(world.device)]
    line = [sys.executable, "-m", "worldsim.bench.determinism", name, str(frames), str(seed), *settings]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def _main(name: str, frames: str, seed: str, dtype: str, threads: str, kernels: str, device: str) -> None:
    torch.set_num_threads(int(threads))
    with nullcontext() if kernels else kernels_disabled():
        world = load(name, device, getattr(torch, dtype))
        print(reference_digest(world, int(frames), int(seed)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
