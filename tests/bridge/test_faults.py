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

from benchmarks.stress.forged import forge
from tests.bridge.asker import Asker, name
from tests.engine.test_forged_snapshots import BAD, faulty, resealed
from tests.tiny import lively_world
from worldsim.bridge import desk as desk_module
from worldsim.bridge import replies
from worldsim.bridge import server as server_module
from worldsim.bridge.server import Options, Server
from worldsim.engine.world import World, load
from worldsim.errors import BridgeError

SLOTS = 3
HISTORY = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return load(lively_world(tmp_path_factory.mktemp("worlds")), "cpu", torch.float32)


@pytest.fixture(params=[False, True], ids=["bare", "journal"])
def server(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Server]:
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state" if request.param else None)
    with Server(world.engine(slots=SLOTS, steps=1, history=HISTORY), options) as server:
        yield server


@pytest.fixture
def asker(server: Server) -> Iterator[Asker]:
    asker = Asker(server.address)
    yield asker
    asker.close()


def snapshot(asker: Asker, session: str) -> bytes:
    return bytes(asker.fetch("snapshot", session=session).payloads[0])


def test_hostile_snapshots_are_refused_one_by_one(server: Server, asker: Asker) -> None:
    honest = asker.open()
    blob = snapshot(asker, honest)
    for changes in BAD.values():
        assert asker.refusal("restore", resealed(blob, **changes), session=name()) == "ENGINE"
    chance = random.Random(5)
    for seq in range(1, 60):
        session = name()
        if asker.ask("restore", forge(chance, blob), session=session)["ok"]:
            asker.ask("step", session=session, seq=1)
            asker.ask("step", session=session, seq=2, codec="jpeg")
            asker.ask("close", session=session)
        assert asker.ask("step", session=honest, seq=seq)["ok"]
    assert server.alive
    assert server.engine.free == SLOTS - 1


def test_a_reply_that_cannot_be_made_is_refused_alone(
    server: Server, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = asker.open()
    true = replies._row

    def huge(answer: Any) -> dict[str, Any]:
        return {**true(answer), "reward": 10**30}

    with monkeypatch.context() as patch:
        patch.setattr(replies, "_row", huge)
        assert asker.refusal("step", session=session, seq=1) == "INTERNAL"
        unborn = name()
        assert asker.refusal("open", session=unborn, seed=0) == "INTERNAL"
    assert asker.ask("step", session=session, seq=1)["ok"]  # what had happened is remembered
    assert asker.refusal("step", session=unborn, seq=1) == "UNKNOWN_SESSION"
    assert server.engine.free == SLOTS - 1


def test_a_row_that_fails_does_not_end_others(
    server: Server, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [asker.open(seed) for seed in (1, 2, 3)]
    items = [{"session": session, "seq": 1, "control": {"keys": ["forward"]}} for session in sessions]
    with monkeypatch.context() as patch:
        faulty(2, patch, late=False)
        told = asker.ask("step_many", items=items, codec="none")["items"]
    assert ["step" in item for item in told] == [True, False, True]
    assert told[1]["error"]["code"] == "INTERNAL"
    assert asker.ask("step", session=sessions[1], seq=1)["ok"]
    assert server.alive


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk with as many bytes free as told."""
    disk = SimpleNamespace(f_bavail=2**40, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    return disk


def test_a_full_disk_refuses_and_nothing_is_lost(world: World, tmp_path: Path, disk: SimpleNamespace) -> None:
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state")
    frame = np.zeros((60, 80, 3), np.uint8)
    anchor = {"frame": {"dtype": "u1", "shape": [60, 80, 3], "part": 0}}
    anchor["control"] = {"pose": np.eye(4).ravel().tolist()}
    with Server(world.engine(slots=SLOTS, steps=1, history=HISTORY), options) as server:
        asker = Asker(server.address)
        session, other = asker.open(), asker.open(1)
        assert asker.ask("step", session=session, seq=1)["ok"]
        blob = snapshot(asker, session)
        disk.f_bavail = 1000
        assert asker.refusal("step", session=session, seq=2) == "BUSY"
        assert asker.refusal("open", session=name(), seed=0) == "BUSY"
        assert asker.refusal("restore", blob, session=name()) == "BUSY"
        assert asker.refusal("fork", session=session, seq=1, children=[name()]) == "BUSY"
        assert asker.refusal("rewind", session=session, seq=2, frames=1) == "BUSY"
        assert asker.refusal("anchor", frame.tobytes(), session=session, seq=2, **anchor) == "BUSY"
        assert asker.ask("close", session=other)["ok"]
        assert server.alive
        assert server.engine.free == SLOTS - 1
        disk.f_bavail = 2**40
        reply = asker.fetch("step", session=session, seq=2, control={"keys": ["forward"]})
        assert reply.header["ok"]
    with Server(world.engine(slots=SLOTS, steps=1, history=HISTORY), options):
        assert asker.ask("hello", client="x")["sessions"] == {session: 2}
        again = asker.fetch("step", session=session, seq=2)
        assert (again.payloads, again.header["step"]) == (reply.payloads, reply.header["step"])
        asker.close()


def test_a_lease_that_cannot_be_written_down_is_not_given(
    world: World, tmp_path: Path, disk: SimpleNamespace
) -> None:
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state")
    with Server(world.engine(slots=SLOTS, steps=1, history=HISTORY), options) as server:
        asker = Asker(server.address)
        lease, asker.lease, disk.f_bavail = asker.lease, None, 1000
        assert asker.refusal("hello", client="another") == "BUSY"
        asker.lease, disk.f_bavail = lease, 2**40
        assert len(server._leases) == 1
        asker.close()


@pytest.mark.parametrize("history", [0, HISTORY])
def test_a_write_that_fails_takes_the_step_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: int
) -> None:
    """The disk was said to have room and has none: with frames to rewind the step is undone and refused."""
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state")
    with Server(world.engine(slots=SLOTS, steps=1, history=history), options) as server:
        asker = Asker(server.address)
        session = asker.open()

        def fail(*_: object) -> None:
            raise BridgeError("the journal must be written", code="BUSY")

        with monkeypatch.context() as patch:
            patch.setattr("worldsim.bridge.log.Log.append", fail)
            asker.send("step", session=session, seq=1)
            if not history:
                assert server.ended.wait(20)
            else:
                assert asker.receive().header["error"]["code"] == "BUSY"
        if history:
            assert asker.ask("step", session=session, seq=1)["step"]["index"] == 3
        asker.close()


def test_an_anchor_that_finds_no_descriptor_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state")
    frame = np.zeros((60, 80, 3), np.uint8)
    keys = {"frame": {"dtype": "u1", "shape": [60, 80, 3], "part": 0}}
    with Server(world.engine(slots=SLOTS, steps=1, history=0), options) as server:
        asker = Asker(server.address)
        session = asker.open()
        keys["control"] = {"pose": np.eye(4).ravel().tolist()}

        def fail(*_: object) -> int:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fail)
            assert asker.refusal("anchor", frame.tobytes(), session=session, seq=1, **keys) == "BUSY"
        assert asker.ask("anchor", frame.tobytes(), session=session, seq=1, **keys)["ok"]
        assert server.alive
        asker.close()


def test_a_pause_longer_than_the_ttl_takes_no_lease(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps by ten ttl between two turns of the sockets' thread, as after SIGSTOP."""
    jump: list[float] = []
    clock = time.monotonic
    monkeypatch.setattr(desk_module.time, "monotonic", lambda: clock() + sum(jump))
    options = Options(address=f"ipc://{tmp_path}/s", ttl=30.0)
    with Server(world.engine(slots=SLOTS, steps=1, history=0), options) as server:
        askers = [Asker(server.address) for _ in range(3)]
        sessions = [asker.open() for asker in askers]
        for _ in range(3):
            jump.append(300.0)
            turned = server._desk.turned
            assert any(server._desk.turned >= turned + 300 or time.sleep(0.01) for _ in range(2000))
        for asker, session in zip(askers, sessions, strict=True):
            assert asker.ask("step", session=session, seq=1)["ok"]
            asker.close()


def test_a_journal_of_other_arithmetic_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(address=f"ipc://{tmp_path}/s", state=tmp_path / "state")
    Server(world.engine(slots=1, steps=1), options).stop()
    monkeypatch.setattr(server_module, "variant", lambda: "another")
    with pytest.raises(BridgeError, match=r"kernels: .* -> another"):
        Server(world.engine(slots=1, steps=1), options)


def test_a_state_folder_is_its_owners(world: World, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    options = Options(address=f"ipc://{tmp_path}/s", state=state)
    with Server(world.engine(slots=SLOTS, steps=1), options) as server:
        asker = Asker(server.address)
        blob = snapshot(asker, asker.open())
        assert asker.ask("restore", blob, session=name())["ok"]
        asker.close()
    modes = {path.relative_to(state).name: path.stat().st_mode & 0o777 for path in [state, *state.rglob("*")]}
    assert all(mode == (0o700 if path in ("", "blobs") else 0o600) for path, mode in modes.items()), modes


def test_a_torn_end_is_kept_and_told_when_a_server_starts(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    options = Options(address=f"ipc://{tmp_path}/s", state=state)
    with Server(world.engine(slots=SLOTS, steps=1, history=HISTORY), options) as server:
        asker = Asker(server.address)
        session = asker.open()
        for seq in (1, 2):
            asker.ask("step", session=session, seq=seq)
    (log,) = state.glob("log-*")
    data = log.read_bytes()
    log.write_bytes(data[:-5])
    with Server(world.engine(slots=SLOTS, steps=1, history=HISTORY), options):
        assert asker.ask("hello", client="x")["sessions"] == {session: 1}
        asker.close()
    (tail,) = state.glob("torn-*")
    assert data[:-5].endswith(tail.read_bytes())
    assert tail.name in caplog.text
