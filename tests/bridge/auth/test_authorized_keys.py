"""Nobody in who does not belong: through real sockets, with CURVE."""

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


class ServerUnderTest:
    """Guarded sockets that answer whoever came in with the key that they came with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.context = folder, zmq.Context()
        self.keys = ServerKeys.read(folder)
        self.sockets = Sockets("tcp://127.0.0.1:*", folder)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def visit(self, secret: bytes | None, server: str | None = None, wait_ms: int = WAIT_MS) -> str | None:
        """Knock with a key and say hello; the key that the house saw, or None if the door stayed shut."""
        client = self.context.socket(zmq.DEALER)
        client.linger, client.sndtimeo = 0, wait_ms  # a door that is shut already takes no message
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
            while came := self.sockets.receive(control=False):
                said, rest = came.parts
                reply = [came.key.encode(), said, str(len(rest)).encode()]
                self.sockets.send(came.identity, reply, control=False)
        self.sockets.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ServerUnderTest]:
    add_client(tmp_path, "robot")
    one = ServerUnderTest(tmp_path)
    yield one
    one.close()


def secret_of(path: Path) -> bytes:
    return path.read_bytes().strip()


def test_a_known_key_comes_in_and_is_known_by_it(house: ServerUnderTest) -> None:
    secret = secret_of(house.folder / "robot.secret")
    assert house.visit(secret) == zmq.curve_public(secret).decode()


def test_others_stay_outside(house: ServerUnderTest) -> None:
    stranger = zmq.curve_keypair()[1]
    assert house.visit(stranger, wait_ms=SILENCE_MS) is None
    assert house.visit(None, wait_ms=SILENCE_MS) is None
    wrong_server = zmq.curve_keypair()[0].decode()
    known = secret_of(house.folder / "robot.secret")
    assert house.visit(known, wrong_server, wait_ms=SILENCE_MS) is None
    assert house.visit(known) is not None


def test_a_key_that_is_added_counts_at_once_and_one_deleted_no_more(house: ServerUnderTest) -> None:
    secret = secret_of(add_client(house.folder, "late"))
    assert house.visit(secret) == zmq.curve_public(secret).decode()
    (house.folder / "clients" / "late.public").unlink()
    assert house.visit(secret, wait_ms=SILENCE_MS) is None


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
