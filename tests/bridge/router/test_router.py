"""Two engines, each a process, behind one address."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bridge.scripted_client import ScriptedClient, name
from tests.bridge.server_process import ServerProcess
from tests.tiny import lively_world
from worldsim.bridge.wire.protocol import Message

pytestmark = pytest.mark.slow  # all share a server or a report that takes seconds

FORWARD = {"keys": ["forward"]}
REAL = bytes(range(200)) * 72
OBSERVE = {
    "frame": {"dtype": "u1", "shape": [60, 80, 3], "part": 0},
    "control": {"pose": [1, 0, 0, 2, 0, 0, 1, 2, 0, -1, 0, 1, 0, 0, 0, 1]},
}
OPTIONS = ("--replicas", "2", "--slots", "4", "--denoising-steps", "1", "--rewind-frames", "4")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def address(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ServerProcess(world, f"ipc://{tmp_path_factory.mktemp('s')}/s", *OPTIONS)
    yield server.address
    assert server.stop() == 0


@pytest.fixture
def client(address: str) -> Iterator[ScriptedClient]:
    client = ScriptedClient(address)
    yield client
    for session in client.ask("hello", client="x", lease=client.lease)["sessions"]:
        client.ask("close", session=session)
    client.close()


def patient(client: ScriptedClient, op: str, /, *payloads: bytes, **keys: Any) -> Message:
    """Ask again for as long as the answer is to try again later, as clients do."""
    for _ in range(300):
        reply = client.fetch(op, *payloads, **keys)
        if reply.header["ok"] or reply.header["error"]["code"] != "UNAVAILABLE":
            return reply
        client.control.poll(200)
    raise AssertionError("busy for ever")


def engines_of(pid: int) -> list[int]:
    """Process ids of a router's engines."""
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return sorted(map(int, done.stdout.split()))


def test_sessions_are_spread_and_one_is_as_good_as_another(client: ScriptedClient) -> None:
    sessions = [client.open(seed=7) for _ in range(6)]
    frames = {client.fetch("step", session=one, seq=1, control=FORWARD).payloads[0] for one in sessions}
    assert len(frames) == 1
    info = client.ask("info")
    assert (info["sessions"], info["slots"], info["replicas"]) == (6, 8, 2)
    assert client.ask("hello", client="x", lease=client.lease)["sessions"] == dict.fromkeys(sessions, 1)


@pytest.mark.parametrize("codec", ["raw", "jpeg", "latent", "none"])
def test_many_steps_are_those_of_one_engine(client: ScriptedClient, codec: str) -> None:
    sessions = [client.open(seed) for seed in range(4)]
    items: list[dict[str, Any]] = [{"session": one, "seq": 1, "control": FORWARD} for one in sessions]
    items.insert(2, {"session": name(), "seq": 1})
    reply = client.fetch("step_many", items=items, codec=codec)
    rows = reply.header["items"]
    assert [row["session"] for row in rows] == [item["session"] for item in items]
    assert rows[2]["error"]["code"] == "UNKNOWN_SESSION"
    alone = [client.fetch("step", session=one, seq=1, codec=codec).payloads for one in sessions]
    assert b"".join(reply.payloads) == b"".join(payloads[0] for payloads in alone if payloads)
    assert client.refusal("step_many", items=[]) == "RESOURCE_EXHAUSTED"


def test_a_chunk_goes_to_its_session_s_engine(client: ScriptedClient) -> None:
    sessions = [client.open(seed=7) for _ in range(3)]
    for one in sessions:
        reply = client.fetch("step_chunk", session=one, seq=1, controls=[FORWARD, {}, FORWARD])
        assert [item["step"]["seq"] for item in reply.header["items"]] == [1, 2, 3]
        assert len(reply.payloads[0]) == 3 * 60 * 80 * 3
    assert client.ask("hello", client="x", lease=client.lease)["sessions"] == dict.fromkeys(sessions, 3)
    assert client.refusal("step_chunk", session=sessions[0], seq=9, controls=[{}] * 9) == "RESOURCE_EXHAUSTED"


def test_forks_snapshots_and_closes(client: ScriptedClient) -> None:
    session, child, copy = client.open(seed=1), name(), name()
    client.ask("step", session=session, seq=1)
    assert client.ask("fork", session=session, seq=1, children=[child])["ok"]
    blob = client.fetch("snapshot", session=session).payloads[0]
    assert client.ask("restore", blob, session=copy)["ok"]
    future = {client.fetch("step", session=one, seq=seq).payloads[0] for one, seq in
              ((session, 2), (child, 1), (copy, 1))}  # fmt: skip
    assert len(future) == 1
    assert client.ask("rewind", session=session, seq=3, frames=1)["ok"]
    assert all(client.ask("close", session=session)["ok"] for _ in range(2))
    assert client.refusal("step", session=session, seq=4) == "UNKNOWN_SESSION"


def test_real_frames_go_to_the_session_wherever_it_is(client: ScriptedClient) -> None:
    assert "observe" in client.ask("hello", client="x", lease=client.lease)["ops"]
    sessions = [client.open(seed=7) for _ in range(4)]
    for _ in range(2):
        for one in sessions:
            assert client.fetch("observe", REAL, session=one, seq=1, **OBSERVE).payloads == [REAL]
    assert client.ask("hello", client="x", lease=client.lease)["sessions"] == dict.fromkeys(sessions, 1)
    frames = {client.fetch("step", session=one, seq=2, control=FORWARD).payloads[0] for one in sessions}
    assert len(frames) == 1
    assert client.refusal("observe", REAL[3:], session=sessions[0], seq=3, **OBSERVE) == "BAD_REQUEST"
    assert client.refusal("observe", REAL, session=name(), seq=1, **OBSERVE) == "UNKNOWN_SESSION"
    assert client.ask("rewind", session=sessions[0], seq=3, frames=2)["ok"]


def test_nobody_gets_at_sessions_of_others(client: ScriptedClient, address: str) -> None:
    session = client.open()
    other, nobody = ScriptedClient(address), ScriptedClient(address, greet=False)
    assert other.refusal("step", session=session, seq=1) == "PERMISSION_DENIED"
    assert other.refusal("take_over", session=name(), folder="/tmp") == "BAD_REQUEST"
    assert other.refusal("heartbeat", key="") == "BAD_REQUEST"
    assert other.refusal("leases") == "BAD_REQUEST"
    assert nobody.refusal("step", session=session, seq=1, lease=name()) == "UNKNOWN_SESSION"
    assert nobody.refusal("open", session="short", seed=0, lease=client.lease) == "BAD_REQUEST"
    other.close()
    nobody.close()


def test_an_engine_that_dies_loses_nothing(world: Path, tmp_path: Path) -> None:
    server = ServerProcess(world, f"ipc://{tmp_path}/s", *OPTIONS, "--journal", str(tmp_path / "state"))
    try:
        client = ScriptedClient(server.address)
        sessions = [client.open(seed=3) for _ in range(4)]
        for seq in (1, 2):
            replies = [client.fetch("step", session=one, seq=seq, control=FORWARD) for one in sessions]
        for one in sessions:
            assert client.fetch("observe", REAL, session=one, seq=3, **OBSERVE).payloads == [REAL]
        os.kill(engines_of(server.pid)[0], signal.SIGKILL)
        again = [patient(client, "step", session=one, seq=2) for one in sessions]
        assert [reply.payloads for reply in again] == [reply.payloads for reply in replies]
        for one in sessions:
            assert patient(client, "observe", REAL, session=one, seq=3, **OBSERVE).payloads == [REAL]
        ahead = {patient(client, "step", session=one, seq=4).payloads[0] for one in sessions}
        assert len(ahead) == 1
        known = patient(client, "hello", client="x", lease=client.lease).header["sessions"]
        assert known == dict.fromkeys(sessions, 4)
        server.kill()
        server = ServerProcess(world, server.address, *OPTIONS, "--journal", str(tmp_path / "state"))
        further = {patient(client, "step", session=one, seq=5).payloads[0] for one in sessions}
        assert len(further) == 1
        assert not further & ahead
        known = patient(client, "hello", client="x", lease=client.lease).header["sessions"]
        assert known == dict.fromkeys(sessions, 5)
        client.close()
    finally:
        server.stop()
