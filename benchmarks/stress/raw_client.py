"""Raw client: one socket each for data and control, no threads, all replies visible."""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from worldsim.bridge.wire.protocol import REPLY, control_address, decode, encode

__all__ = ["NoReplyError", "RawClient", "Reply", "new_name"]

_MANY = 1024
"""Replies that are received at once."""


class NoReplyError(Exception):
    """No reply, although the request was repeated."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply of a server."""

    header: dict[str, Any]
    payloads: list[bytes]
    received: float
    """Time of receipt on the monotonic clock, before the reply was decoded."""

    @property
    def ok(self) -> bool:
        return bool(self.header["ok"])

    @property
    def code(self) -> str:
        """Code of an error reply."""
        return "" if self.ok else str(self.header["error"]["code"])


def new_name() -> str:
    """Return a new session name."""
    return secrets.token_hex(16)


class RawClient:
    """A client for one thread.

    Args:
        address: of the server's data socket.
        control: of its control socket where that is not beside it, as behind a proxy.
        timeout: seconds in which a request must be answered, unless it says otherwise.
    """

    def __init__(self, address: str, control: str | None = None, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.address, self.control = address, control or control_address(address)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._ids = itertools.count(1)
        self.lease: str | None = None
        self.sockets = {kind: self._connect(kind) for kind in ("data", "control")}
        self._last_heartbeat = time.monotonic()

    def hello(self, timeout: float | None = None) -> dict[str, Any]:
        """Resume the old lease, or get a new one; return the reply."""
        reply = self.ask("hello", kind="control", timeout=timeout, client="stress", lease=self.lease)
        if not reply.ok:
            raise NoReplyError(f"hello: {reply.header}")
        self.lease = reply.header["lease"]
        return reply.header

    def ask(
        self,
        op: str,
        payloads: Sequence[bytes] = (),
        *,
        kind: str = "data",
        timeout: float | None = None,
        repeat: float = 1.0,
        **fields: Any,
    ) -> Reply:
        """Send until answered: again after ``repeat`` seconds of silence, later if UNAVAILABLE."""
        parts, number = self.request(op, payloads, **fields)
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while time.monotonic() < end:
            self.send_once(parts, kind)
            reply = self.wait(number, repeat, kind)
            if reply is None:
                self._reconnect(kind)
            elif reply.code in ("UNAVAILABLE", "DRAINING"):
                time.sleep((reply.header["error"]["retry_after_ms"] or 100) / 1000)
            else:
                return reply
        raise NoReplyError(op)

    def request(self, op: str, payloads: Sequence[bytes] = (), **fields: Any) -> tuple[list[Any], int]:
        """Return the parts of a request, and its id."""
        number = next(self._ids)
        lease = {} if op in ("hello", "info") else {"lease": self.lease}
        return encode({"op": op, "id": number, **lease, **fields}, payloads), number

    def send_once(self, parts: Sequence[Any], kind: str = "data") -> None:
        """Send once; a full socket counts as a lost message."""
        try:
            self.sockets[kind].send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            time.sleep(0.01)

    def wait(self, number: int, seconds: float, kind: str = "data") -> Reply | None:
        """Wait for the reply to a request; late replies to others are dropped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            reply = self.next(left, kind)
            if reply is not None and reply.header.get("id") == number:
                return reply
        return None

    def next(self, seconds: float, kind: str = "data") -> Reply | None:
        """Return the next reply to any request."""
        self.heartbeat()
        return next(self._receive(seconds, kind, 1), None)

    def next_all(self, seconds: float, kind: str = "data") -> Iterator[Reply]:
        """Return all replies that have arrived; receive them before any is decoded, for exact times."""
        self.heartbeat()
        return self._receive(seconds, kind, _MANY)

    def _receive(self, seconds: float, kind: str, most: int) -> Iterator[Reply]:
        socket, arrived = self.sockets[kind], list[tuple[list[bytes], float]]()
        if seconds <= 0 or socket.poll(math.ceil(seconds * 1000)):
            with contextlib.suppress(zmq.Again):  # a poll in vain would take longer than all the rest
                while len(arrived) < most:
                    arrived.append((socket.recv_multipart(zmq.DONTWAIT), time.monotonic()))
        for parts, received in arrived:
            message = decode(parts, REPLY)
            yield Reply(message.header, message.payloads, received)

    def heartbeat(self) -> None:
        """Renew the lease if due."""
        if self.lease and time.monotonic() - self._last_heartbeat > 1:
            self._last_heartbeat = time.monotonic()
            self.send_once(self.request("heartbeat")[0], "control")
            while self.sockets["control"].poll(0):
                self.sockets["control"].recv_multipart()

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close()

    def _connect(self, kind: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm, socket.rcvhwm = 1000, 0
        socket.reconnect_ivl, socket.reconnect_ivl_max = 20, 200
        socket.heartbeat_ivl, socket.heartbeat_timeout = 1000, 3000
        socket.connect(self.address if kind == "data" else self.control)
        return socket

    def _reconnect(self, kind: str) -> None:
        """Replace the socket, dropping its unread messages."""
        self.sockets[kind].close()
        self.sockets[kind] = self._connect(kind)
