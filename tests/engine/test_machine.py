"""An engine under any sequence of calls, against a model that knows only histories of controls.

A dream is a function of (seed, start, controls): whoever has the same past must show the same frame, whatever
happened in other slots, whether it was alone or in a batch, in a slot or offloaded: bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.tiny import lively_world
from worldsim.controls import Control
from worldsim.engine.session import Session
from worldsim.engine.world import World, load
from worldsim.errors import EngineError

SLOTS, ROOM, REWIND_FRAMES = 2, 5, 4
CONTROLS = (Control({"forward"}), Control({"turn_left"}), Control(yaw=0.2))

Past = tuple[int, int, tuple[int, ...]]
"""Seed, start, numbers of the controls so far."""


@dataclass(eq=False)
class Modelled:
    """What must be true of a session."""

    session: Session
    past: Past
    max_rewind: int


class Machine(RuleBasedStateMachine):
    world: World

    def __init__(self) -> None:
        super().__init__()
        offload_bytes = (ROOM - SLOTS) * self.world.engine(1).session_bytes
        self.engine = self.world.engine(
            SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES, offload_bytes=offload_bytes
        )
        self.open: list[Modelled] = []
        self.closed: list[Session] = []
        self.blobs: list[tuple[bytes, Past]] = []
        self.shown: dict[Past, np.ndarray] = {}

    def pick(self, number: int) -> Modelled:
        return self.open[number % len(self.open)]

    def is_full(self) -> bool:
        return len(self.open) == ROOM

    @rule(seed=st.integers(0, 2), start=st.integers(0, 1))
    def open_session(self, seed: int, start: int) -> None:
        if self.is_full():
            with pytest.raises(EngineError, match="room for"):
                self.engine.open(seed, start)
        else:
            self.open.append(Modelled(self.engine.open(seed, start), (seed, start, ()), 0))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 9), control=st.integers(0, len(CONTROLS) - 1))
    def step(self, number: int, control: int) -> None:
        one = self.pick(number)
        one.session.step(CONTROLS[control])
        seed, start, controls = one.past
        one.past = (seed, start, (*controls, control))
        one.max_rewind = min(REWIND_FRAMES, one.max_rewind + 1)

    @precondition(lambda self: self.open)
    @rule(chosen=st.sets(st.integers(0, ROOM - 1), min_size=1), control=st.integers(0, len(CONTROLS) - 1))
    def step_many(self, chosen: set[int], control: int) -> None:
        some = [one for i, one in enumerate(self.open) if i in chosen]
        self.engine.step({one.session: CONTROLS[(control + i) % len(CONTROLS)] for i, one in enumerate(some)})
        for i, one in enumerate(some):
            seed, start, controls = one.past
            one.past = (seed, start, (*controls, (control + i) % len(CONTROLS)))
            one.max_rewind = min(REWIND_FRAMES, one.max_rewind + 1)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 9))
    def offload(self, number: int) -> None:
        self.engine.offload(self.pick(number).session)
        assert self.pick(number).session.slot is None

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 9), count=st.integers(1, 2))
    def fork(self, number: int, count: int) -> None:
        one = self.pick(number)
        if len(self.open) + count > ROOM:
            with pytest.raises(EngineError, match="room for"):
                one.session.fork(count)
        else:
            twins = one.session.fork(count)
            self.open += [Modelled(twin, one.past, one.max_rewind) for twin in twins]

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 9), frames=st.integers(1, REWIND_FRAMES))
    def rewind(self, number: int, frames: int) -> None:
        one = self.pick(number)
        if frames > one.max_rewind:
            with pytest.raises(EngineError, match="rewind"):
                one.session.rewind(frames)
        else:
            one.session.rewind(frames)
            seed, start, controls = one.past
            one.past, one.max_rewind = (seed, start, controls[:-frames]), one.max_rewind - frames

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 9))
    def snapshot(self, number: int) -> None:
        one = self.pick(number)
        self.blobs.append((one.session.snapshot(), one.past))

    @precondition(lambda self: self.blobs)
    @rule(number=st.integers(0, 9))
    def restore(self, number: int) -> None:
        blob, past = self.blobs[number % len(self.blobs)]
        if self.is_full():
            with pytest.raises(EngineError, match="room for"):
                self.engine.restore(blob)
        else:
            self.open.append(Modelled(self.engine.restore(blob), past, 0))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 9))
    def close(self, number: int) -> None:
        one = self.pick(number)
        one.session.close()
        self.open.remove(one)
        self.closed.append(one.session)

    @precondition(lambda self: self.closed)
    @rule()
    def step_a_closed_one(self) -> None:
        with pytest.raises(EngineError, match="closed"):
            self.closed[-1].step()

    @invariant()
    def every_slot_is_held_once(self) -> None:
        slots = [one.session.slot for one in self.open if one.session.slot is not None]
        assert len(set(slots)) == len(slots) <= SLOTS
        assert self.engine.free == ROOM - len(self.open)
        assert self.engine.scheduler.offloaded == len(self.open) - len(slots)

    @invariant()
    def every_session_is_where_its_past_led_it(self) -> None:
        for one in self.open:
            seed, start, controls = one.past
            session = one.session
            assert (session.seed, session.start) == (seed, start)
            assert session.index == len(self.world.starts[start].frames) - 1 + len(controls)
            assert session.max_rewind == one.max_rewind
            first = self.shown.setdefault(one.past, session.frame.copy())
            np.testing.assert_array_equal(session.frame, first)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_sequence_of_calls(tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype) -> None:
    path: Path = lively_world(tmp_path_factory.mktemp("machine"))
    Machine.world = load(path, "cpu", dtype)
    case = Machine.TestCase()
    case.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
    case.runTest()
