"""Time of fork, snapshot, restore and rewind, and of steps late in a long session."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldsim.bench.steps import held_controls, open_sessions
from worldsim.engine.session import Session
from worldsim.engine.world import World

_NEAR = 64
"""Frames after which the context is full and the step time constant."""
_PAIRS = 500
"""Steps of the old and of the new session that are compared: their medians are exact to a hundredth."""


@dataclass(frozen=True, slots=True)
class SessionOps:
    """Medians in milliseconds."""

    fork_ms: float
    """One fork of a live session."""
    snapshot_ms: float
    restore_ms: float
    snapshot_bytes: int
    rewind_ms: float


def time_session_ops(world: World, repeats: int = 20) -> SessionOps:
    """Time operations on a session whose context is full."""
    engine = world.engine(slots=3, rewind_frames=16)
    session = open_sessions(engine, 1)[0]
    for _ in range(engine.context + 2):
        session.step()
    blob = session.snapshot()

    twins: list[Session] = []

    def fork() -> None:
        twins.append(session.fork()[0])

    def restore() -> None:
        twins.append(engine.restore(blob))

    def drop() -> None:
        while twins:
            twins.pop().close()

    return SessionOps(
        fork_ms=_median_ms(fork, drop, repeats),
        snapshot_ms=_median_ms(lambda: session.snapshot(), drop, repeats),
        restore_ms=_median_ms(restore, drop, repeats),
        snapshot_bytes=len(blob),
        rewind_ms=_median_ms(lambda: session.rewind(8), lambda: [session.step() for _ in range(8)], 5),
    )


@dataclass(frozen=True, slots=True)
class LongRun:
    """Step time of a session early and late in its life."""

    frames: int
    near_ms: float
    """Median step around frame 64."""
    far_ms: float
    """Median step before the last frame."""

    @property
    def ratio(self) -> float:
        """Late step time over early step time."""
        return self.far_ms / self.near_ms


def time_long_run(world: World, frames: int, seconds: float | None = None) -> LongRun:
    """Step one session ``frames`` times, or for ``seconds`` if those are over earlier.

    At its end it is timed in alternation with a new session, under the same kind of controls: a machine that
    has become slower or faster in the meantime does not distort the ratio.
    """
    engine = world.engine(2, denoising_steps=world.denoising_steps_near(1), rewind_frames=0)
    old, young = (held_controls(world, [session]) for session in open_sessions(engine, 2))
    until = time.perf_counter() + (seconds if seconds is not None else float("inf"))
    done = 0
    while done < frames and time.perf_counter() < until:
        engine.step(next(old))
        done += 1
    for _ in range(_NEAR):
        engine.step(next(young))
    times: dict[bool, list[float]] = {True: [], False: []}
    turns = [(True, old), (False, young)]
    for _ in range(_PAIRS):
        turns.reverse()
        for is_old, controls in turns:
            control = next(controls)
            began = time.perf_counter()
            engine.step(control)
            times[is_old].append(time.perf_counter() - began)
    near, far = (float(np.median(times[is_old]) * 1000) for is_old in (False, True))
    return LongRun(done, near, far)


def _median_ms(work: Callable[[], object], after: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
        after()
    return round(float(np.median(times)) * 1000, 4)
