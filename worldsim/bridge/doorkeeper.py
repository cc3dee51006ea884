"""Answers ZeroMQ's question, at every handshake, whether a key may come in (ZAP, RFC 27)."""

from __future__ import annotations

import threading
from pathlib import Path

import zmq
from zmq.utils import z85

from worldsim.bridge.keys import DOMAIN, read_clients
from worldsim.errors import BridgeError

__all__ = ["Doorkeeper"]

_ENDPOINT = "inproc://zeromq.zap.01"
_TICK_MS = 200


class Doorkeeper:
    """Lets in the keys in ``folder``/clients, which is looked at anew at every handshake.

    So a key that is added counts at once, and one that is deleted is kept out from its next connection on.
    Those let in carry their public key, Z85, as ``User-Id``. To be started before the sockets that
    ``ServerKeys.guard`` guards are bound, in the same context.

    Raises:
        BridgeError: the context has a doorkeeper already.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self.folder = Path(folder)
        self.admitted = self.refused = 0
        """Handshakes so far."""
        self._stop = threading.Event()
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        try:
            self._socket.bind(_ENDPOINT)
        except zmq.ZMQError as error:
            self._socket.close()
            raise BridgeError("a context must have one doorkeeper", str(error)) from error
        self._thread = threading.Thread(target=self._run, name="worldsim-doorkeeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; from then on nobody comes in. Closing twice is fine."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Doorkeeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._socket.poll(_TICK_MS):
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except zmq.ContextTerminated:
            pass
        finally:
            self._socket.close()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """Request: version, id, domain, address, identity, mechanism, credentials."""
        number = request[1] if len(request) > 1 else b""
        key = self._admit(request)
        if key is None:
            self.refused += 1
            return [b"1.0", number, b"400", b"this key may not come in", b"", b""]
        self.admitted += 1
        return [b"1.0", number, b"200", b"OK", key.encode(), b""]

    def _admit(self, request: list[bytes]) -> str | None:
        """The client's public key if it may come in."""
        if len(request) != 7 or request[0] != b"1.0" or request[2] != DOMAIN.encode():
            return None
        mechanism, key = request[5:]
        if mechanism != b"CURVE" or len(key) != 32:
            return None
        name = z85.encode(key).decode()
        return name if name in read_clients(self.folder) else None
