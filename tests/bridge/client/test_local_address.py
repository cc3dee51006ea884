"""Default addresses, and whose process answers there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bridge.fake_server import FakeServer
from worldsim.bridge.client import Client
from worldsim.bridge.client.local_address import check_owner, default_address
from worldsim.errors import BridgeError

SQUAT = """
import os, socket, sys
os.setuid(65534)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("there", flush=True)
sock, _ = server.accept()
sock.settimeout(20)
print(len(sock.recv(100)), flush=True)
"""


def test_a_default_address_is_in_a_folder_of_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_address("maze") == f"ipc://{tmp_path}/worldsim-maze.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"worldsim-{os.geteuid()}"
    assert default_address("maze") == f"ipc://{folder}/worldsim-maze.sock"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(BridgeError, match="alone"):
        default_address("maze")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(BridgeError, match="alone"):
        default_address("maze")


def test_a_world_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    server = FakeServer(default_address("fake"))
    with Client("fake", timeout=20) as client:
        assert client.world.name == "fake"
    server.close()


def test_nobody_there_is_nobody_else(tmp_path: Path) -> None:
    check_owner(f"ipc://{tmp_path}/s")
    check_owner("tcp://127.0.0.1:1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_nothing_is_said_to_another_users_server(tmp_path: Path) -> None:
    path = f"/tmp/{os.getpid()}-{tmp_path.name}.sock"
    squatter = subprocess.Popen([sys.executable, "-c", SQUAT, path], stdout=subprocess.PIPE, text=True)
    try:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "there\n"
        with pytest.raises(BridgeError, match="one's own"):
            Client(f"ipc://{path}", timeout=5)
        assert squatter.stdout.readline() == "0\n"
    finally:
        squatter.kill()
        squatter.communicate(timeout=30)
        Path(path).unlink()


def test_many_half_requests_leave_the_status_page_open() -> None:
    from worldsim.bridge.server.status_page import StatusPage

    page = StatusPage(0, lambda: b"metrics", lambda: True, lambda: True)
    halves = []
    for _ in range(100):
        half = socket.create_connection(("127.0.0.1", page.port))
        half.sendall(b"GET /metrics HTTP/1.1\r\n")
        halves.append(half)
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as whole:
        whole.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert whole.recv(100).startswith(b"HTTP/1.0 200")
    assert page.busy <= 16
    for half in halves:
        half.close()
    page.close()
