"""Faults stay where they happen: one request, one row, one reply, one disk."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.stress.forged_snapshots import forge
from tests.bridge.scripted_client import ScriptedClient, name
from tests.engine.test_forged_snapshots import BAD, faulty, resealed
from tests.tiny import lively_world
from worldsim.bridge.server import io_loop as io_loop_module
from worldsim.bridge.server import replies
from worldsim.bridge.server import server as server_module
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.engine.session import Session
from worldsim.engine.world import World, load
from worldsim.errors import BridgeError

SLOTS = 3
REWIND_FRAMES = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(lively_world(tmp_path_factory.mktemp("worlds")), "cpu", torch.float32)


@pytest.fixture(params=[False, True], ids=["bare", "journal"])
def server(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Server]:
    options = ServerOptions(
        address=f"ipc://{tmp_path}/s", journal=tmp_path / "state" if request.param else None
    )
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[ScriptedClient]:
    client = ScriptedClient(server.address)
    yield client
    client.close()


def snapshot(client: ScriptedClient, session: str) -> bytes:
    return bytes(client.fetch("snapshot", session=session).payloads[0])


@pytest.mark.slow
def test_hostile_snapshots_are_refused_one_by_one(server: Server, client: ScriptedClient) -> None:
    honest = client.open()
    blob = snapshot(client, honest)
    for changes in BAD.values():
        assert client.refusal("restore", resealed(blob, **changes), session=name()) == "ENGINE"
    chance = random.Random(5)
    for seq in range(1, 60):
        session = name()
        if client.ask("restore", forge(chance, blob), session=session)["ok"]:
            client.ask("step", session=session, seq=1)
            client.ask("step", session=session, seq=2, codec="jpeg")
            client.ask("close", session=session)
        assert client.ask("step", session=honest, seq=seq)["ok"]
    assert server.alive
    assert server.engine.free == SLOTS - 1


def test_a_reply_that_cannot_be_made_is_refused_alone(
    server: Server, client: ScriptedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = client.open()
    true = replies._step_fields

    def huge(answer: Any) -> dict[str, Any]:
        return {**true(answer), "reward": 10**30}

    with monkeypatch.context() as patch:
        patch.setattr(replies, "_step_fields", huge)
        assert client.refusal("step", session=session, seq=1) == "INTERNAL"
        unborn = name()
        assert client.refusal("open", session=unborn, seed=0) == "INTERNAL"
    assert client.ask("step", session=session, seq=1)["ok"]  # what had happened is remembered
    assert client.refusal("step", session=unborn, seq=1) == "UNKNOWN_SESSION"
    assert server.engine.free == SLOTS - 1


def test_a_row_that_fails_does_not_end_others(
    server: Server, client: ScriptedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [client.open(seed) for seed in (1, 2, 3)]
    items = [{"session": session, "seq": 1, "control": {"keys": ["forward"]}} for session in sessions]
    with monkeypatch.context() as patch:
        faulty(2, patch, late=False)
        told = client.ask("step_many", items=items, codec="none")["items"]
    assert ["step" in item for item in told] == [True, False, True]
    assert told[1]["error"]["code"] == "INTERNAL"
    assert client.ask("step", session=sessions[1], seq=1)["ok"]
    assert server.alive


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk with as many bytes free as told."""
    disk = SimpleNamespace(f_bavail=2**40, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    return disk


def test_a_full_disk_refuses_and_nothing_is_lost(world: World, tmp_path: Path, disk: SimpleNamespace) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    frame = np.zeros((60, 80, 3), np.uint8)
    observe = {"frame": {"dtype": "u1", "shape": [60, 80, 3], "part": 0}}
    observe["control"] = {"pose": np.eye(4).ravel().tolist()}
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options) as server:
        client = ScriptedClient(server.address)
        session, other = client.open(), client.open(1)
        assert client.ask("step", session=session, seq=1)["ok"]
        blob = snapshot(client, session)
        disk.f_bavail = 1000
        assert client.refusal("step", session=session, seq=2) == "UNAVAILABLE"
        assert client.refusal("open", session=name(), seed=0) == "UNAVAILABLE"
        assert client.refusal("restore", blob, session=name()) == "UNAVAILABLE"
        assert client.refusal("fork", session=session, seq=1, children=[name()]) == "UNAVAILABLE"
        assert client.refusal("rewind", session=session, seq=2, frames=1) == "UNAVAILABLE"
        assert client.refusal("observe", frame.tobytes(), session=session, seq=2, **observe) == "UNAVAILABLE"
        assert client.ask("close", session=other)["ok"]
        assert server.alive
        assert server.engine.free == SLOTS - 1
        disk.f_bavail = 2**40
        reply = client.fetch("step", session=session, seq=2, control={"keys": ["forward"]})
        assert reply.header["ok"]
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options):
        assert client.ask("hello", client="x")["sessions"] == {session: 2}
        again = client.fetch("step", session=session, seq=2)
        assert (again.payloads, again.header["step"]) == (reply.payloads, reply.header["step"])
        client.close()


def test_a_lease_that_cannot_be_written_down_is_not_given(
    world: World, tmp_path: Path, disk: SimpleNamespace
) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options) as server:
        client = ScriptedClient(server.address)
        lease, client.lease, disk.f_bavail = client.lease, None, 1000
        assert client.refusal("hello", client="another") == "UNAVAILABLE"
        client.lease, disk.f_bavail = lease, 2**40
        assert len(server._leases) == 1
        client.close()


@pytest.mark.parametrize("rewind_frames", [0, REWIND_FRAMES])
def test_a_write_that_fails_takes_the_step_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewind_frames: int
) -> None:
    """The disk was said to have room and has none: with frames to rewind the step is undone and refused."""
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=rewind_frames), options) as server:
        client = ScriptedClient(server.address)
        session = client.open()

        def fail(*_: object) -> None:
            raise BridgeError("the journal must be written", code="UNAVAILABLE")

        with monkeypatch.context() as patch:
            patch.setattr("worldsim.bridge.journal.wal.WriteAheadLog.append", fail)
            client.send("step", session=session, seq=1)
            if not rewind_frames:
                assert server.ended.wait(20)
            else:
                assert client.receive().header["error"]["code"] == "UNAVAILABLE"
        if rewind_frames:
            assert client.ask("step", session=session, seq=1)["step"]["index"] == 3
        client.close()


def test_an_anchor_that_finds_no_descriptor_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    frame = np.zeros((60, 80, 3), np.uint8)
    keys = {"frame": {"dtype": "u1", "shape": [60, 80, 3], "part": 0}}
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=0), options) as server:
        client = ScriptedClient(server.address)
        session = client.open()
        keys["control"] = {"pose": np.eye(4).ravel().tolist()}

        def fail(*_: object) -> int:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fail)
            assert client.refusal("observe", frame.tobytes(), session=session, seq=1, **keys) == "UNAVAILABLE"
        assert client.ask("observe", frame.tobytes(), session=session, seq=1, **keys)["ok"]
        assert server.alive
        client.close()


def test_a_pause_longer_than_the_ttl_takes_no_lease(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps by ten ttl between two turns of the sockets' thread, as after SIGSTOP."""
    jump: list[float] = []
    clock = time.monotonic
    monkeypatch.setattr(io_loop_module.time, "monotonic", lambda: clock() + sum(jump))
    options = ServerOptions(address=f"ipc://{tmp_path}/s", lease_ttl=30.0)
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=0), options) as server:
        clients = [ScriptedClient(server.address) for _ in range(3)]
        sessions = [client.open() for client in clients]
        for _ in range(3):
            jump.append(300.0)
            last_turn = server._io_loop.last_turn
            assert any(server._io_loop.last_turn >= last_turn + 300 or time.sleep(0.01) for _ in range(2000))
        for client, session in zip(clients, sessions, strict=True):
            assert client.ask("step", session=session, seq=1)["ok"]
            client.close()


def test_a_session_whose_snapshot_is_broken_does_not_keep_a_server_from_starting(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replayed from where it began instead."""
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    true, broken = Session.snapshot, []

    def nan(session: Session) -> bytes:
        broken.append(session)
        return resealed(true(session), reward=float("nan"))

    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options) as server:
        client = ScriptedClient(server.address)
        session = client.open()
        monkeypatch.setattr(Session, "snapshot", nan)
        assert server._batcher._manager.journal is not None
        server._batcher._manager.journal.snapshot_interval = 4
        for seq in range(1, 13):
            reply = client.fetch("step", session=session, seq=seq)
    assert 2 <= len(broken) <= 3, "one that is refused is not tried again at every step"
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options):
        assert client.fetch("step", session=session, seq=12).payloads == reply.payloads
        client.close()


def test_a_journal_of_other_arithmetic_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    Server(world.engine(slots=1, denoising_steps=1), options).stop()
    monkeypatch.setattr(server_module, "variant", lambda: "another")
    with pytest.raises(BridgeError, match=r"kernels: .* -> another"):
        Server(world.engine(slots=1, denoising_steps=1), options)


def test_a_state_folder_is_its_owners(world: World, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=state)
    with Server(world.engine(slots=SLOTS, denoising_steps=1), options) as server:
        client = ScriptedClient(server.address)
        blob = snapshot(client, client.open())
        assert client.ask("restore", blob, session=name())["ok"]
        client.close()
    modes = {path.relative_to(state).name: path.stat().st_mode & 0o777 for path in [state, *state.rglob("*")]}
    assert all(mode == (0o700 if path in ("", "blobs") else 0o600) for path, mode in modes.items()), modes


def test_a_torn_end_is_kept_and_told_when_a_server_starts(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=state)
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options) as server:
        client = ScriptedClient(server.address)
        session = client.open()
        for seq in (1, 2):
            client.ask("step", session=session, seq=seq)
    (log,) = state.glob("log-*")
    data = log.read_bytes()
    log.write_bytes(data[:-5])
    with Server(world.engine(slots=SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES), options):
        assert client.ask("hello", client="x")["sessions"] == {session: 1}
        client.close()
    (tail,) = state.glob("torn-*")
    assert data[:-5].endswith(tail.read_bytes())
    assert tail.name in caplog.text
