"""``worldsim serve`` as a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.scripted_client import ScriptedClient
from tests.bridge.server_process import ServerProcess
from worldsim import cli
from worldsim.bridge.router import engine_process
from worldsim.testing import tiny_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
def test_sigterm_ends_it_in_order(world: Path, tmp_path: Path) -> None:
    server = ServerProcess(world, f"ipc://{tmp_path}/s", "--slots", "1", "--denoising-steps", "1")
    try:
        client = ScriptedClient(server.address)
        session = client.open()
        for seq in range(1, 9):
            client.send("step", session=session, seq=seq)
        assert client.receive().header["ok"]
    finally:
        assert server.stop() == 0
    answers = [client.receive().header for _ in range(7)]
    assert all(answer["ok"] or answer["error"]["code"] == "DRAINING" for answer in answers)
    client.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bind", "tcp://0.0.0.0:5757"], "needs keys"),
        (["--bind", "udp://127.0.0.1:5757"], "needs keys"),
        (["--bind", "ipc:///nowhere/s"], "free and well-formed"),
        (["--slots", "0"], "slots >= 1"),
        (["--keys", "/nowhere"], "a key must be a file"),
        (["--journal", "/proc/x"], "/proc/x"),
        (["--journal", "/proc/x", "--replicas", "2"], "/proc/x"),
        (["--context", "1"], "context must be at least 2"),
        (["--unit", "nonsense"], "a unit must be"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    words = [str(world), "--bind", "ipc:///nowhere/s", "--dtype", "float32", *options]
    assert cli.main(["serve", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]


def test_replicas_of_no_world_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "nowhere", "--replicas", "2", "--bind", f"ipc://{tmp_path}/s"]) == 2
    assert "a world must be a shipped name or a folder" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_replicas_that_do_not_start_end_the_command(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "_START", "raise SystemExit(3)")
    monkeypatch.setattr(engine_process, "_RESTART_SECONDS", 0.01)
    assert cli.main(["serve", str(world), "--replicas", "2", "--bind", f"ipc://{tmp_path}/s"]) == 2
    assert "replicas must start" in capsys.readouterr().err.splitlines()[-1]
