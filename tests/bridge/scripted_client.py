"""A client that sends whatever it is told, and a gate before an engine."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import zmq

from worldsim.bridge.wire.protocol import REPLY, Message, control_address, decode, encode
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.step import Step

PATIENCE_MS = 20_000


def name() -> str:
    """A new session's."""
    return secrets.token_hex(16)


class ScriptedClient:
    """One connection to each socket, with a lease unless told otherwise."""

    def __init__(self, address: str, *, greet: bool = True) -> None:
        self._context = zmq.Context()
        self.data, self.control = self._connect(address), self._connect(control_address(address))
        self._ids = itertools.count(1)
        self.lease: str | None = None
        if greet:
            self.lease = self.ask("hello", client="test")["lease"]

    def _connect(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(address)
        return socket

    def send(self, op: str, *payloads: bytes, **keys: Any) -> int:
        """Ask without waiting; returns the request's id."""
        number = next(self._ids)
        header = {"op": op, "id": number, **({"lease": self.lease} if self.lease else {}), **keys}
        self.socket(op).send_multipart(encode(header, payloads))
        return number

    def ask(self, op: str, *payloads: bytes, **keys: Any) -> dict[str, Any]:
        """Ask and wait: the reply's header."""
        return self.fetch(op, *payloads, **keys).header

    def fetch(self, op: str, *payloads: bytes, **keys: Any) -> Message:
        """Ask and wait: the whole reply."""
        number = self.send(op, *payloads, **keys)
        reply = self.receive(self.socket(op))
        assert reply.header["id"] == number
        return reply

    def raw(self, *parts: bytes, control: bool = False) -> dict[str, Any]:
        """Send parts as they are; the reply's header."""
        socket = self.control if control else self.data
        socket.send_multipart(list(parts))
        return self.receive(socket).header

    def refusal(self, op: str, *payloads: bytes, **keys: Any) -> str:
        """The code of the error that a request is answered with."""
        return str(self.ask(op, *payloads, **keys)["error"]["code"])

    def open(self, seed: int = 0) -> str:
        """A new session's name."""
        session = name()
        assert self.ask("open", session=session, seed=seed)["ok"]
        return session

    def receive(self, socket: zmq.Socket[bytes] | None = None) -> Message:
        """The next reply."""
        socket = socket or self.data
        assert socket.poll(PATIENCE_MS), "no reply came"
        return decode(socket.recv_multipart(), REPLY)

    def socket(self, op: str) -> zmq.Socket[bytes]:
        return self.control if op in ("hello", "heartbeat", "info") else self.data

    def close(self) -> None:
        self._context.destroy(linger=0)


class EngineGate:
    """Steps of an engine wait until they are let through; the sizes of the batches are noted."""

    def __init__(self, engine: Engine) -> None:
        self.batches: list[int] = []
        self.entered = threading.Semaphore(0)
        self._pass, self._step = threading.Event(), engine.step
        self._pass.set()
        engine.step = self._wait  # type: ignore[method-assign]

    @contextmanager
    def closed(self) -> Iterator[None]:
        """No step ends for as long as the context lasts."""
        self._pass.clear()
        try:
            yield
        finally:
            self._pass.set()

    def await_step(self) -> None:
        """Return when one more step has come to the gate."""
        assert self.entered.acquire(timeout=PATIENCE_MS / 1000)

    def _wait(self, controls: Mapping[Session, Control], **options: Any) -> dict[Session, Step]:
        self.batches.append(len(controls))
        self.entered.release()
        assert self._pass.wait(PATIENCE_MS / 1000)
        return self._step(controls, **options)
