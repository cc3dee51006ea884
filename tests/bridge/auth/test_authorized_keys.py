"""Authorized keys, through real CURVE sockets."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from worldsim.bridge.auth import keys as keys_module
from worldsim.bridge.auth.keys import AuthorizedKeys, ServerKeys, add_client
from worldsim.bridge.server.sockets import Sockets

WAIT_MS, SILENCE_MS = 5000, 300


class GuardedServer:
    """CURVE sockets that echo the key of each client."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.context = folder, zmq.Context()
        self.keys = ServerKeys.read(folder)
        self.sockets = Sockets("tcp://127.0.0.1:*", folder)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def connect(self, secret: bytes | None, server: str | None = None, wait_ms: int = WAIT_MS) -> str | None:
        """Connect with a key and send a message; return the key that the server saw, or None if refused."""
        client = self.context.socket(zmq.DEALER)
        client.linger, client.sndtimeo = 0, wait_ms  # a refused socket takes no message
        if secret is not None:
            client.curve_serverkey = (server or self.keys.public).encode()
            client.curve_secretkey, client.curve_publickey = secret, zmq.curve_public(secret)
        client.connect(self.sockets.address)
        try:
            client.send_multipart([b"hello", b"x" * 100_000])
            if not client.poll(wait_ms):
                return None
            key, said, size = client.recv_multipart()
            assert (said, size) == (b"hello", b"100000")
            return key.decode()
        except zmq.Again:
            return None
        finally:
            client.close()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(30)
        self.context.term()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self.sockets.poll(0.05)
            while received := self.sockets.receive(control=False):
                said, rest = received.parts
                reply = [received.key.encode(), said, str(len(rest)).encode()]
                self.sockets.send(received.identity, reply, control=False)
        self.sockets.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GuardedServer]:
    add_client(tmp_path, "robot")
    one = GuardedServer(tmp_path)
    yield one
    one.close()


def secret_of(path: Path) -> bytes:
    return path.read_bytes().strip()


def test_a_known_key_comes_in_and_is_known_by_it(server: GuardedServer) -> None:
    secret = secret_of(server.folder / "robot.secret")
    assert server.connect(secret) == zmq.curve_public(secret).decode()


@pytest.mark.slow
def test_others_stay_outside(server: GuardedServer) -> None:
    unknown_key = zmq.curve_keypair()[1]
    assert server.connect(unknown_key, wait_ms=SILENCE_MS) is None
    assert server.connect(None, wait_ms=SILENCE_MS) is None
    wrong_server = zmq.curve_keypair()[0].decode()
    known = secret_of(server.folder / "robot.secret")
    assert server.connect(known, wrong_server, wait_ms=SILENCE_MS) is None
    assert server.connect(known) is not None


@pytest.mark.slow
def test_a_key_that_is_added_counts_at_once_and_one_deleted_no_more(server: GuardedServer) -> None:
    secret = secret_of(add_client(server.folder, "late"))
    assert server.connect(secret) == zmq.curve_public(secret).decode()
    (server.folder / "clients" / "late.public").unlink()
    assert server.connect(secret, wait_ms=SILENCE_MS) is None


def test_unknown_keys_cost_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secret_of(add_client(tmp_path, "robot"))
    os.utime(tmp_path / "clients", ns=(1, 1))
    reads = []
    read = keys_module.read_clients
    monkeypatch.setattr(keys_module, "read_clients", lambda folder: reads.append(folder) or read(folder))
    authorized_keys = AuthorizedKeys(tmp_path)
    assert authorized_keys.is_authorized(zmq.curve_public(secret).decode())
    assert not any(authorized_keys.is_authorized("x" * 40) for _ in range(100))
    assert len(reads) == 1
    (tmp_path / "clients" / "robot.public").write_text("y" * 40)
    assert not authorized_keys.is_authorized(zmq.curve_public(secret).decode())
