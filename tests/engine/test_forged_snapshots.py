"""Snapshots that a sender sealed himself: refused in one way, or ones that a session could have."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from safetensors.torch import save

from benchmarks.stress.forged_snapshots import forge, open_sealed, seal
from tests.engine.walks import assert_same, control, walk
from worldsim.controls import Control
from worldsim.engine import stepper
from worldsim.engine.batch_step import BatchStep
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.engine.world import World
from worldsim.errors import EngineError
from worldsim.networks import Networks
from worldsim.sampling.imagine import Imagined
from worldsim.sampling.world_state import WorldState


def resealed(blob: bytes, **changes: object) -> bytes:
    """A snapshot with fields of its header or tensors replaced."""
    header, tensors = open_sealed(blob)
    for name, value in changes.items():
        (tensors if isinstance(value, torch.Tensor) else header)[name] = value
    return seal(save(tensors, {"session": json.dumps(header)}))


BAD = {
    "reward": {"reward": 10**30},
    "reward type": {"reward": "1"},
    "uncertainty": {"uncertainty": float("nan")},
    "surprise": {"surprise": -1.0},
    "index of frames": {"index": -1000},
    "far index": {"index": 2**60},
    "frames": {"indices": torch.tensor([-1000])},
    "ring index": {"generator.index": torch.tensor([-1000])},
    "no pose": {"has_pose": False},
    "context": {"context": -3},
    "temperature": {"temperature": torch.tensor([float("nan")])},
    "start": {"start": "0"},
    "seen": {"seen": torch.zeros(2, 2, 2, 2, dtype=torch.float64)},
    "keys": {"generator.keys": torch.zeros(3, 3)},
    "frame": {"frame": torch.zeros(3, 3)},
    "poses": {"poses": torch.zeros(1, 4, 4, dtype=torch.float64)},
    "motion_history": {"motion_history": torch.zeros(1, 1)},
    "agent": {"agent": torch.zeros(1)},
    "latent": {"latent": torch.full((12, 4), float("inf"))},
    "unknown": {"more": torch.zeros(1)},
    "unknown field": {"more": 1},
}


@pytest.mark.parametrize("name", BAD)
def test_a_part_that_no_session_has_is_refused_and_takes_no_slot(world: World, name: str) -> None:
    engine = world.engine(2)
    session = engine.open(3)
    walk(session, 2)
    with pytest.raises(EngineError, match="snapshot"):
        engine.restore(resealed(session.snapshot(), **BAD[name]))
    assert (engine.free, engine.scheduler.offloaded) == (1, 0)


def test_written_places_lie_before_the_next_frame(world: World) -> None:
    engine = world.engine(2)
    blob = engine.open(3).snapshot()
    written = open_sealed(blob)[1]["generator.written"] + 5
    with pytest.raises(EngineError, match="sinks and the newest"):
        engine.restore(resealed(blob, **{"generator.written": written}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["world", "poseless", "half"])
def test_forged_snapshots_cost_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    """Hundreds of them: only EngineErrors, no slot lost, and the session beside them walks on as ever."""
    world: World = request.getfixturevalue(kind)
    chance, engine = random.Random(17), world.engine(3, denoising_steps=1)
    honest, twin = engine.open(5), world.engine(1, denoising_steps=1).open(5)
    blob, taken = honest.snapshot(), 0
    for number in range(300):
        try:
            forged = engine.restore(forge(chance, blob))
        except EngineError:
            continue
        taken += 1
        steps = engine.step({honest: control(number), forged: Control()})
        assert_same([steps[honest]], [twin.step(control(number))])
        assert isinstance(steps[forged].reward, float)
        forged.snapshot()
        forged.close()
    assert engine.free == 2
    assert taken < 100  # what is left is what a session could have: other seeds, numbers in range


def faulty(seed: int, monkeypatch: pytest.MonkeyPatch, *, late: bool) -> None:
    """Every step of a session with this seed fails, before or after its memory is written."""
    step, told = stepper.imagine_frame, BatchStep.of

    def early(networks: Networks, state: WorldState, *rest: Any, **options: Any) -> Imagined:
        if (state.seeds == seed).any():
            raise RuntimeError("bad row")
        return step(networks, state, *rest, **options)

    def at_the_end(imagined: Imagined, state: WorldState, *rest: Any) -> BatchStep:
        if (state.seeds == seed).any():
            raise RuntimeError("bad row")
        return told(imagined, state, *rest)

    if late:
        monkeypatch.setattr(BatchStep, "of", staticmethod(at_the_end))
    else:
        monkeypatch.setattr(stepper, "imagine_frame", early)


@pytest.mark.parametrize(("late", "rewind_frames"), [(False, 0), (False, 4), (True, 4)])
def test_a_fault_of_a_row_is_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch, late: bool, rewind_frames: int
) -> None:
    engine, alone = world.engine(3, rewind_frames=rewind_frames), world.engine(1)
    honest, bad, other = engine.open(1, start=0), engine.open(2, start=1), engine.open(3, start=0)
    bad.step(control(4))
    twin = alone.open(1, start=0)
    before = bad.snapshot()
    with monkeypatch.context() as patch:
        faulty(2, patch, late=late)
        faults: dict[Session, Exception] = {}
        steps = engine.step(dict.fromkeys((honest, bad, other), control(0)), faults=faults)
    assert set(steps) == {honest, other}
    assert [str(fault) for fault in faults.values()] == ["bad row"]
    assert_same([steps[honest]], [twin.step(control(0))])
    assert bad.snapshot() == before
    assert isinstance(bad.step(control(0)), Step)
    assert_same([honest.step(control(1))], [twin.step(control(1))])


def test_what_cannot_be_put_back_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine(2, rewind_frames=0)
    bad = engine.open(2)
    with monkeypatch.context() as patch:
        faulty(2, patch, late=True)
        faults: dict[Session, Exception] = {}
        assert not engine.step({bad: Control()}, faults=faults)
    assert list(faults) == [bad]
    assert bad.closed
    assert engine.free == 2


def test_a_fault_is_raised_where_nobody_asks_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine(2)
    good, bad = engine.open(1, start=0), engine.open(2, start=1)
    with monkeypatch.context() as patch:
        faulty(2, patch, late=False)
        with pytest.raises(RuntimeError, match="bad row"):
            engine.step({good: Control(), bad: Control()})
    assert (good.index, bad.index) == (3, 2)


def test_memory_that_cannot_be_put_costs_no_slot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine(2, offload_bytes=world.engine(1).session_bytes)
    first, second = engine.open(1), engine.open(2)
    blob = first.snapshot()

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    for method in ("put", "pick"):  # of the new one, and of the one that gives way to it
        with monkeypatch.context() as patch:
            patch.setattr(f"worldsim.sampling.world_state.WorldState.{method}", fail)
            with pytest.raises(MemoryError):
                engine.restore(blob)
        assert engine.free == 1
        assert len(engine.step({first: Control(), second: Control()})) == 2
    assert engine.restore(blob).slot is not None


@pytest.mark.parametrize("kind", ["world", "poseless"])
def test_what_is_taken_stays_whole(kind: str, request: pytest.FixtureRequest) -> None:
    """Huge numbers are refused, or the session that has them can be stepped and restored."""
    world: World = request.getfixturevalue(kind)
    engine = world.engine(2, denoising_steps=1)
    session = engine.open(5)
    session.step(control(0))
    _, tensors = open_sealed(session.snapshot())
    refused = 0
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        for value in (3e38, 1e18, -1e9):
            huge = torch.full_like(tensor, value)
            if name == "poses":
                huge = tensor.clone()
                huge[..., :3, 3] = value
            try:
                forged = engine.restore(resealed(session.snapshot(), **{name: huge}))
            except EngineError:
                refused += 1
                continue
            for number in range(3):
                assert abs(forged.step(control(number)).reward) < float("inf")
            engine_again = world.engine(1, denoising_steps=1)
            assert engine_again.restore(forged.snapshot()).index == forged.index
            forged.close()
    assert refused > 4
