"""Steps within a budget over the wire: coarse frames instead of late ones, replayed to the bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_array_equal

from tests.bridge.scripted_client import EngineGate
from tests.contracts.worlds import Parts, write_world
from tests.waiting import wait_until
from worldsim.bridge.client import Client
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.engine import World, load

PARTS = Parts("next-scale", "bits", "next-scale", "next-scale", prior="none")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = write_world(tmp_path_factory.mktemp("budget") / "tiny", PARTS, poses=False)
    return load(folder, "cpu", torch.float32)


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as short:
        yield f"ipc://{short}/s"


def served(world: World, address: str, journal: Path | None = None) -> Server:
    engine = world.engine(slots=4, rewind_frames=4)
    return Server(engine, ServerOptions(address=address, journal=journal))


def test_a_step_without_time_draws_the_coarsest_scale(world: World, address: str) -> None:
    scales, local = len(world.allowed_denoising_steps), world.engine(1).open(1, 0)
    with served(world, address), Client(address) as client:
        session, twin = client.open(seed=1, start=0), client.open(seed=1, start=0)
        steps = [session.step(budget=0.0) for _ in range(scales)]  # each number is tried once
        steps += [session.step(budget=0.0), session.step(budget=60.0), session.step()]
        assert [step.denoising_steps for step in steps[-3:]] == [1, scales, scales]
        for step in steps:  # the same numbers of passes give the same frames in an engine of its own
            again = local.step(denoising_steps=step.denoising_steps)
            assert_array_equal(step.frame, again.frame)
            assert (step.surprise, step.uncertainty) == (again.surprise, again.uncertainty)
        both = client.step_many({session: None, twin: None}, budget=60.0)
        assert [step.seq for step in both.values()] == [scales + 4, 1]


def test_each_has_its_own_budget_and_is_stepped_before_those_without(world: World, address: str) -> None:
    scales = len(world.allowed_denoising_steps)
    with served(world, address) as server, Client(address) as client:
        first, second, third, fourth = (client.open(seed=seed, start=0) for seed in range(4))
        for _ in range(2 * scales):  # all numbers of scales are measured, for one session and for two
            client.step_many(dict.fromkeys((first, second)), budget=0.0)
            first.step(budget=0.0)
        gate = EngineGate(server.engine)
        with gate.closed():
            asked = [third.step_async()]
            gate.await_step()
            asked += [fourth.step_async(), first.step_async(budget=0.0), second.step_async(budget=60.0)]
            wait_until(lambda: server._io_loop.waiting == len(asked), "all requests have come")
        made = [one.result() for one in asked]
        assert [one.denoising_steps for one in made] == [scales, scales, 1, scales]
        assert gate.batches == [1, 2, 1]


def test_the_passes_that_were_taken_are_replayed(world: World, address: str, tmp_path: Path) -> None:
    with served(world, address, tmp_path / "state") as server, Client(address) as client:
        session = client.open(seed=1, start=0)
        passes = [session.step("forward", budget=0.0).denoising_steps for _ in range(5)]
        seen, lease = session.last, client.lease
        assert min(passes) == 1 < max(passes)
        server.drain()
        local = world.engine(1).open(1, 0)
        step = [local.step("forward", denoising_steps=k) for k in passes][-1]
        assert_array_equal(step.frame, seen.frame)
        assert (step.surprise, step.denoising_steps) == (seen.surprise, passes[-1])
        server.stop()
        with served(world, address, tmp_path / "state"):
            (back,) = Client(address, lease=lease).sessions
            after = back.step("forward")
    other = local.step("forward")
    assert_array_equal(after.frame, other.frame)
    assert (after.surprise, after.uncertainty) == (other.surprise, other.uncertainty)
