"""Chunks over the wire: one request, frames in order, retried and replayed to the bit."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.tiny import lively_world, stir
from worldsim.bridge.client import Client, DeadlineExceededError, ResourceExhaustedError
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.checkpoint import load_world, save_world
from worldsim.controls import Control
from worldsim.engine import World, load
from worldsim.errors import ControlError
from worldsim.networks import Networks
from worldsim.units import CubeUnitConfig

CHUNK = [
    Control({"forward"}),
    Control({"turn_left"}),
    Control(),
    Control({"forward"}),
    Control({"turn_left"}),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose units have two frames."""
    folder = lively_world(tmp_path_factory.mktemp("cube"), tokenizer="frame", poses=False)
    stored = load_world(folder)
    config = dataclasses.replace(stored.config.networks, unit=CubeUnitConfig(frames=2))
    torch.manual_seed(0)
    networks = Networks(config, stored.config.source)
    stir(networks)
    save_world(folder, dataclasses.replace(stored.config, networks=config), networks, stored.starts, "#")
    return load(folder, "cpu", torch.float32)


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as short:
        yield f"ipc://{short}/s"


def served(world: World, address: str, journal: Path | None = None) -> Server:
    options = ServerOptions(address=address, metrics_port=0, journal=journal)
    return Server(world.engine(3, rewind_frames=8), options)


def frames_of(world: World, chunk: list[Control]) -> list[np.ndarray]:
    return [step.frame for step in world.engine(1, rewind_frames=8).open(3, 0).step_chunk(chunk)]


@pytest.mark.parametrize("codec", ["raw", "jpeg", "latent", "none"])
def test_frames_come_in_order_each_with_its_seq(world: World, address: str, codec: str) -> None:
    with served(world, address), Client(address) as client:
        session = client.open(seed=3, start=0)
        steps = session.step_chunk(CHUNK, codec=codec)
        assert [step.seq for step in steps] == [1, 2, 3, 4, 5]
        assert [step.index for step in steps] == list(range(steps[0].index, steps[0].index + 5))
        assert session.last is steps[-1]
        if codec == "raw":
            for step, frame in zip(steps, frames_of(world, CHUNK), strict=True):
                assert_array_equal(step.frame, frame)
        assert session.step(codec="none").seq == 6


def test_a_chunk_is_not_held_controls(world: World, address: str) -> None:
    with served(world, address), Client(address) as client:
        chunked, stepped = client.open(seed=3, start=0), client.open(seed=3, start=0)
        planned = chunked.step_chunk(CHUNK[:2])
        assert (planned[0].frame != stepped.step(CHUNK[0]).frame).any()


def test_a_chunk_beside_other_sessions_is_the_same(world: World, address: str) -> None:
    with served(world, address), Client(address) as client:
        session, other = client.open(seed=3, start=0), client.open(seed=4, start=0)
        futures = [other.step_async(CHUNK[0]) for _ in range(5)]
        steps = session.step_chunk(CHUNK)
        assert [future.result().seq for future in futures] == [1, 2, 3, 4, 5]
    for step, frame in zip(steps, frames_of(world, CHUNK), strict=True):
        assert_array_equal(step.frame, frame)


def test_a_repeated_chunk_is_answered_from_memory(world: World, address: str) -> None:
    with served(world, address), Client(address) as client:
        session = client.open(seed=3, start=0)
        first = session.step_chunk(CHUNK)
        session.resync(0)
        again = session.step_chunk(CHUNK)
        assert [step.index for step in again] == [step.index for step in first]
        for one, other in zip(first, again, strict=True):
            assert_array_equal(one.frame, other.frame)
        session.rewind(3)
        assert session.seq == 6


def test_what_is_refused_moves_nothing(world: World, address: str) -> None:
    with served(world, address), Client(address) as client:
        session = client.open(seed=3, start=0)
        with pytest.raises(ResourceExhaustedError, match="1 to 8 controls"):
            session.step_chunk([None] * 9)
        with pytest.raises(ResourceExhaustedError):
            session.step_chunk([])
        with pytest.raises(ControlError):
            session.step_chunk([None, {"no such key"}])
        assert session.step_chunk([None])[0].seq == 1


def test_a_deadline_ends_a_chunk_where_it_is(world: World, address: str) -> None:
    with served(world, address), Client(address) as client:
        session = client.open(seed=3, start=0)
        with pytest.raises(DeadlineExceededError):
            session.step_chunk(CHUNK, deadline=0.001)
        taken = session.seq
        assert taken < len(CHUNK)
        assert session.step().seq == taken + 1


def test_the_journal_replays_a_chunk(world: World, address: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with served(world, address, journal), Client(address) as client:
        session = client.open(seed=3, start=0)
        session.step_chunk(CHUNK[:3])
        lease, expected = client.lease, session.fork()[0].step(CHUNK[3]).frame
        client.close(keep_sessions=True)
    with served(world, address, journal), Client(address, lease=lease) as client:
        (session,) = [one for one in client.sessions if one.seq == 3]
        assert_array_equal(session.step(CHUNK[3]).frame, expected)
