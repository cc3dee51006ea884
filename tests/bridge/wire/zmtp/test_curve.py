"""The server's side of CURVE against a client's that is made here of the same boxes."""

from __future__ import annotations

import pytest
from nacl import bindings as nacl

from worldsim.bridge.wire.zmtp import DisconnectError
from worldsim.bridge.wire.zmtp.curve import CurveMechanism
from worldsim.bridge.wire.zmtp.frames import COMMAND, MORE

PROPERTIES = b"\x0bSocket-Type\x00\x00\x00\x06DEALER"


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


class Client:
    """Says what a client says."""

    def __init__(self, server: bytes) -> None:
        self.server = server
        self.public, self.secret = nacl.crypto_box_keypair()
        self.own_public, self.own_secret = nacl.crypto_box_keypair()
        self.shared = b""

    def hello(self, nonce: int = 1) -> bytes:
        box = nacl.crypto_box(bytes(64), b"CurveZMQHELLO---" + number(nonce), self.server, self.own_secret)
        return b"\x05HELLO\x01\x00" + bytes(72) + self.own_public + number(nonce) + box

    def initiate(self, welcome: bytes, nonce: int = 2, vouch_for: bytes | None = None) -> bytes:
        """The answer to a WELCOME's frame."""
        body = welcome[2:]
        assert body[:8] == b"\x07WELCOME"
        plain = nacl.crypto_box_open(body[24:], b"WELCOME-" + body[8:24], self.server, self.own_secret)
        session, cookie = plain[:32], plain[32:]
        vouched = (vouch_for or self.own_public) + self.server
        vouch = bytes(16) + nacl.crypto_box(vouched, b"VOUCH---" + bytes(16), session, self.secret)
        self.shared = nacl.crypto_box_beforenm(session, self.own_secret)
        plain = self.public + vouch + PROPERTIES
        box = nacl.crypto_box_afternm(plain, b"CurveZMQINITIATE" + number(nonce), self.shared)
        return b"\x08INITIATE" + cookie + number(nonce) + box

    def message(self, nonce: int, flags: int, data: bytes) -> bytes:
        box = nacl.crypto_box_afternm(bytes([flags]) + data, b"CurveZMQMESSAGEC" + number(nonce), self.shared)
        return b"\x07MESSAGE" + number(nonce) + box


def pair(admit: bool = True) -> tuple[CurveMechanism, Client]:
    public, secret = nacl.crypto_box_keypair()
    return CurveMechanism(secret, lambda _: admit), Client(public)


def meet() -> tuple[CurveMechanism, Client]:
    server, client = pair()
    (welcome,) = server.answer(client.hello())
    (ready,) = server.answer(client.initiate(welcome))
    assert ready[2:8] == b"\x05READY"
    assert server.ready
    return server, client


def test_messages_go_both_ways() -> None:
    server, client = meet()
    assert server.open(0, client.message(3, 1, b"part")) == (MORE, b"part")
    assert server.open(0, client.message(4, 2, b"\x04PING")) == (COMMAND, b"\x04PING")
    frame = b"".join(server.seal(MORE, memoryview(b"answer")))
    body = frame[2:]
    plain = nacl.crypto_box_open_afternm(body[16:], b"CurveZMQMESSAGES" + body[8:16], client.shared)
    assert plain == b"\x01answer"


def test_a_key_that_may_not_come_in_is_told_so() -> None:
    server, client = pair(admit=False)
    (welcome,) = server.answer(client.hello())
    (error,) = server.answer(client.initiate(welcome))
    assert error[2:] == b"\x05ERROR\x03400"
    assert not server.ready


def test_nothing_is_taken_twice() -> None:
    server, client = meet()
    once = client.message(3, 0, b"once")
    server.open(0, once)
    with pytest.raises(DisconnectError):
        server.open(0, once)


def test_one_cannot_vouch_for_another() -> None:
    server, client = pair()
    (welcome,) = server.answer(client.hello())
    with pytest.raises(DisconnectError):
        server.answer(client.initiate(welcome, vouch_for=bytes(32)))
    assert not server.ready


def test_a_cookie_belongs_to_its_connection() -> None:
    (server, client), (other, stranger) = pair(), pair()
    (welcome,) = server.answer(client.hello())
    other.answer(stranger.hello())
    with pytest.raises(DisconnectError):
        other.answer(client.initiate(welcome))


@pytest.mark.parametrize("at", [0, 5, 6, 7, 90, 115, 150])
def test_a_bent_hello_is_refused(at: int) -> None:
    server, client = pair()
    bent = bytearray(client.hello())
    bent[at] ^= 1
    with pytest.raises(DisconnectError):
        server.answer(bytes(bent))
    assert not server.ready


def test_bent_and_short_boxes_are_refused() -> None:
    server, client = meet()
    bent = bytearray(client.message(3, 0, b"data"))
    bent[-1] ^= 1
    with pytest.raises(DisconnectError):
        server.open(0, bytes(bent))
    for body in (b"", b"\x07MESSAGE", b"\x07MESSAGE" + bytes(20)):
        with pytest.raises(DisconnectError):
            server.open(0, body)
