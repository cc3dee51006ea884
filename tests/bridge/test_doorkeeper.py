"""Nobody in who does not belong: through real sockets, with CURVE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from worldsim.bridge.doorkeeper import Doorkeeper
from worldsim.bridge.keys import ServerKeys, add_client
from worldsim.errors import BridgeError

WAIT_MS, SILENCE_MS = 5000, 300


class House:
    """A guarded ROUTER that answers whoever came in with the key they came with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.context = folder, zmq.Context()
        self.doorkeeper = Doorkeeper(self.context, folder)
        self.router = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.keys = ServerKeys.read(folder)
        self.keys.guard(self.router)
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")

    def visit(self, secret: bytes | None, server: str | None = None, wait_ms: int = WAIT_MS) -> str | None:
        """Knock with a key and say hello; the key that the house saw, or None if the door stayed shut."""
        client = self.context.socket(zmq.DEALER)
        client.linger = 0
        if secret is not None:
            client.curve_serverkey = (server or self.keys.public).encode()
            client.curve_secretkey, client.curve_publickey = secret, zmq.curve_public(secret)
        client.connect(f"tcp://127.0.0.1:{self.port}")
        client.send(b"hello")
        try:
            if not self.router.poll(wait_ms):
                return None
            _, frame = self.router.recv_multipart(copy=False)
            assert frame.bytes == b"hello"
            return str(frame.get("User-Id"))
        finally:
            client.close()

    def close(self) -> None:
        self.doorkeeper.close()
        self.router.close()
        self.context.term()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    add_client(tmp_path, "robot")
    one = House(tmp_path)
    yield one
    one.close()


def secret_of(path: Path) -> bytes:
    return path.read_bytes().strip()


def test_a_known_key_comes_in_and_is_known_by_it(house: House) -> None:
    secret = secret_of(house.folder / "robot.secret")
    assert house.visit(secret) == zmq.curve_public(secret).decode()
    assert house.doorkeeper.admitted == 1


def test_others_stay_outside(house: House) -> None:
    stranger = zmq.curve_keypair()[1]
    assert house.visit(stranger, wait_ms=SILENCE_MS) is None
    assert house.doorkeeper.refused >= 1
    assert house.visit(None, wait_ms=SILENCE_MS) is None
    wrong_server = zmq.curve_keypair()[0].decode()
    known = secret_of(house.folder / "robot.secret")
    assert house.visit(known, wrong_server, wait_ms=SILENCE_MS) is None
    assert house.visit(known) is not None


def test_a_key_that_is_added_counts_at_once_and_one_deleted_no_more(house: House) -> None:
    secret = secret_of(add_client(house.folder, "late"))
    assert house.visit(secret) == zmq.curve_public(secret).decode()
    (house.folder / "clients" / "late.public").unlink()
    assert house.visit(secret, wait_ms=SILENCE_MS) is None


def test_without_a_doorkeeper_the_door_stays_shut(house: House) -> None:
    house.doorkeeper.close()
    assert house.visit(secret_of(house.folder / "robot.secret"), wait_ms=SILENCE_MS) is None


def test_one_doorkeeper_a_context(house: House) -> None:
    with pytest.raises(BridgeError, match="one doorkeeper"):
        Doorkeeper(house.context, house.folder)


@pytest.mark.parametrize(
    "request_",
    [
        [],
        [b"1.0"],
        [b"1.0", b"7", b"worldsim", b"", b"", b"NULL"],
        [b"1.0", b"7", b"worldsim", b"", b"", b"PLAIN", b"x" * 32],
        [b"1.0", b"7", b"global", b"", b"", b"CURVE", b"x" * 32],
        [b"1.0", b"7", b"worldsim", b"", b"", b"CURVE", b"x" * 31],
        [b"2.0", b"7", b"worldsim", b"", b"", b"CURVE", b"x" * 32],
    ],
)
def test_a_question_that_is_not_understood_is_answered_no(house: House, request_: list[bytes]) -> None:
    assert house.doorkeeper._answer(request_)[2] == b"400"
