from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from worldsim.bridge.wire.zmtp import Listener
from worldsim.errors import BridgeError

START = """
import sys, time
from worldsim.bridge.wire.zmtp import Listener
from worldsim.errors import BridgeError
print("ready", flush=True)
sys.stdin.readline()
try:
    listener = Listener(sys.argv[1], owner_only=True)
except BridgeError:
    print("refused", flush=True)
else:
    print("bound", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_of_many_that_start_together_one_listens(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", START, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        for one in starters:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in starters:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        said = [one.stdout.readline().strip() for one in starters if one.stdout is not None]
        assert sorted(said) == ["bound", "refused", "refused", "refused"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
    finally:
        for one in starters:
            one.kill()
            one.communicate(timeout=30)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(tmp_path / "s"))
    Listener(address, owner_only=True).close()  # what a killed one left is no obstacle
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_lock_lets_nobody_in(tmp_path: Path) -> None:
    listener = Listener(f"ipc://{tmp_path}/s", owner_only=True)
    (tmp_path / "s.lock").unlink()
    with pytest.raises(BridgeError, match="free"):
        Listener(f"ipc://{tmp_path}/s", owner_only=True)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    listener.close()


def test_files_of_a_successor_stay(tmp_path: Path) -> None:
    """Both files are deleted by hand, and another server binds the address before the first one ends."""
    first = Listener(f"ipc://{tmp_path}/s", owner_only=True)
    for path in list(tmp_path.iterdir()):
        path.unlink()
    second = Listener(f"ipc://{tmp_path}/s", owner_only=True)
    first.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.lock"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(BridgeError, match="free"):
        Listener(f"ipc://{tmp_path}/s", owner_only=True)
    assert (tmp_path / "s").read_text() == "mine"


@pytest.mark.parametrize(
    "address",
    ["ipc://", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:70000", "udp://x:1"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(BridgeError, match="well-formed"):
        Listener(address, owner_only=True)


def test_without_descriptors_who_waits_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener("tcp://127.0.0.1:*", owner_only=True)
    host, port = listener.sock.getsockname()
    client = socket.create_connection((host, port))
    accept, tries = listener.sock.accept, []

    class Full:
        """A socket that has no descriptor for its first connection."""

        family = listener.sock.family

        def accept(self) -> object:
            tries.append(1)
            if len(tries) == 1:
                raise OSError(24, "too many open files")
            return accept()

    real, listener.sock = listener.sock, Full()  # type: ignore[assignment]
    assert listener.accept() is None
    client.settimeout(5)
    assert client.recv(1) == b""
    listener.sock = real
    client.close()
    listener.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_others_cannot_connect_to_what_is_its_owners(tmp_path: Path) -> None:
    address = f"@worldsim-{os.getpid()}-{tmp_path.name}"
    ask = (
        "import os,socket,sys; os.setuid(65534); s=socket.socket(socket.AF_UNIX); "
        "s.settimeout(5); s.connect('\\0'+sys.argv[1]); print(len(s.recv(1)))"
    )
    for owner_only, said in ((True, "0"), (False, "1")):
        listener = Listener(f"ipc://{address}", owner_only=owner_only)
        client = subprocess.Popen([sys.executable, "-c", ask, address[1:]], stdout=subprocess.PIPE, text=True)
        listener.sock.settimeout(20)
        listener.sock.setblocking(True)
        taken = listener.accept() if not owner_only else _accept_once(listener)
        if taken is not None:
            taken.send(b"x")
            taken.close()
        assert client.communicate(timeout=20)[0].strip() == said
        listener.close()


def _accept_once(listener: Listener) -> socket.socket | None:
    """Wait for one connection, which is turned away."""
    import select

    assert select.select([listener.sock], [], [], 20)[0]
    listener.sock.setblocking(False)
    return listener.accept()
