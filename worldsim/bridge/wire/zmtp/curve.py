"""CURVE mechanism, server side (RFC 26)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from nacl import bindings as nacl
from nacl.exceptions import CryptoError
from zmq.utils import z85

from worldsim.bridge.wire.zmtp.frames import (
    COMMAND,
    MORE,
    DisconnectError,
    check_socket_type,
    command,
    frame,
    head,
    metadata,
    read_metadata,
)

__all__ = ["CurveMechanism"]

_HELLO, _INITIATE, _MESSAGE = b"\x05HELLO", b"\x08INITIATE", b"\x07MESSAGE"
_COMMAND_FLAG = 2
"""Flag of a command within a box."""


class CurveMechanism:
    """CURVE mechanism of one connection.

    Args:
        secret: the server's key, 32 bytes.
        is_authorized: tells whether a public key, Z85, may come in.
    """

    name = "CURVE"
    overhead = len(_MESSAGE) + 8 + 16 + 1

    def __init__(self, secret: bytes, is_authorized: Callable[[str], bool]) -> None:
        self._secret, self._is_authorized = secret, is_authorized
        self.ready, self.key = False, ""
        self._client_connection_key = b""
        """Client's short-term key."""
        self._connection_secret = b""
        """Server's short-term secret."""
        self._cookie_key = secrets.token_bytes(32)
        self._shared = b""
        self._last_received_nonce = -1
        """Nonce of the last received box; the next one's is greater."""
        self._last_sent_nonce = 0

    def answer(self, body: bytes) -> list[bytes]:
        try:
            if not self._client_connection_key:
                return [frame(COMMAND, self._answer_hello(bytes(body)))]
            return [frame(COMMAND, self._answer_initiate(bytes(body)))]
        except CryptoError as error:
            raise DisconnectError("a box that cannot be opened") from error

    def open(self, flags: int, body: Any) -> tuple[int, Any]:
        if flags & (MORE | COMMAND) or len(body) < self.overhead or bytes(body[:8]) != _MESSAGE:
            raise DisconnectError("no MESSAGE")
        nonce = bytes(body[8:16])
        self._check_nonce(nonce)
        try:
            plain = nacl.crypto_box_open_afternm(bytes(body[16:]), b"CurveZMQMESSAGEC" + nonce, self._shared)
        except CryptoError as error:
            raise DisconnectError("a box that cannot be opened") from error
        inner = plain[0]
        return inner & MORE | (COMMAND if inner & _COMMAND_FLAG else 0), plain[1:]

    def seal(self, flags: int, body: Any) -> list[Any]:
        inner = bytes((flags & MORE | (_COMMAND_FLAG if flags & COMMAND else 0),))
        nonce = self._nonce()
        box = nacl.crypto_box_afternm(inner + body, b"CurveZMQMESSAGES" + nonce, self._shared)
        return [head(0, 16 + len(box)), _MESSAGE + nonce + box]

    def _answer_hello(self, body: bytes) -> bytes:
        """Answer HELLO: a short-term key, and a cookie that only the server can open."""
        if len(body) != 200 or body[:8] != _HELLO + b"\x01\x00":
            raise DisconnectError("no HELLO")
        client, nonce, box = body[80:112], body[112:120], body[120:]
        self._check_nonce(nonce)
        if nacl.crypto_box_open(box, b"CurveZMQHELLO---" + nonce, client, self._secret) != bytes(64):
            raise DisconnectError("no HELLO")
        self._client_connection_key = client
        public, self._connection_secret = nacl.crypto_box_keypair()
        number = secrets.token_bytes(16)
        cookie = number + nacl.crypto_secretbox(
            client + self._connection_secret, b"COOKIE--" + number, self._cookie_key
        )
        number = secrets.token_bytes(16)
        box = nacl.crypto_box(public + cookie, b"WELCOME-" + number, client, self._secret)
        return command("WELCOME", number + box)

    def _answer_initiate(self, body: bytes) -> bytes:
        """Answer INITIATE: READY, or an ERROR for an unauthorized key."""
        if len(body) < 9 + 96 + 8 + 16 + 128 or body[:9] != _INITIATE:
            raise DisconnectError("no INITIATE")
        cookie, nonce, box = body[9:105], body[105:113], body[113:]
        self._check_nonce(nonce)
        kept = nacl.crypto_secretbox_open(cookie[16:], b"COOKIE--" + cookie[:16], self._cookie_key)
        if kept != self._client_connection_key + self._connection_secret:
            raise DisconnectError("another connection's cookie")
        self._shared = nacl.crypto_box_beforenm(self._client_connection_key, self._connection_secret)
        plain = nacl.crypto_box_open_afternm(box, b"CurveZMQINITIATE" + nonce, self._shared)
        long_term_key, vouch = plain[:32], plain[32:128]
        vouch_content = nacl.crypto_box_open(
            vouch[16:], b"VOUCH---" + vouch[:16], long_term_key, self._connection_secret
        )
        if vouch_content != self._client_connection_key + nacl.crypto_scalarmult_base(self._secret):
            raise DisconnectError("another connection's vouch")
        key = z85.encode(long_term_key).decode()
        if not self._is_authorized(key):
            return command("ERROR", b"\x03400")
        check_socket_type(read_metadata(plain[128:]))
        self.key, self.ready = key, True
        nonce = self._nonce()
        box = nacl.crypto_box_afternm(metadata(), b"CurveZMQREADY---" + nonce, self._shared)
        return command("READY", nonce + box)

    def _nonce(self) -> bytes:
        self._last_sent_nonce += 1
        return self._last_sent_nonce.to_bytes(8, "big")

    def _check_nonce(self, nonce: bytes) -> None:
        number = int.from_bytes(nonce, "big")
        if number <= self._last_received_nonce:
            raise DisconnectError("a nonce that was used")
        self._last_received_nonce = number
