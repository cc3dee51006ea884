"""Connection to a server: a thread that owns the two sockets."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import zmq

from worldsim.bridge.client.dealer import DealerSocket
from worldsim.bridge.client.errors import PermissionDeniedError
from worldsim.bridge.client.keys import ClientKeys
from worldsim.bridge.client.pending_request import PendingRequest
from worldsim.bridge.wire.protocol import REPLY, Code, Message, control_address, decode
from worldsim.errors import BridgeError

__all__ = ["ServerConnection"]

_HEARTBEAT_SECONDS = 1.0
"""Seconds between heartbeats."""
_SEND_RETRY_SECONDS = 0.02
"""Seconds after which a full socket is tried again."""
_MAX_IN_FLIGHT = 64
"""Unanswered requests per socket; the server accepts no more of one client."""


class ServerConnection:
    """Sends requests until they are answered: again after a time-out, a reconnection or an ``UNAVAILABLE``.

    Args:
        address: of the server's data socket; the control socket's follows from it.
        keys: for a server that asks for them.
    """

    def __init__(self, address: str, keys: ClientKeys | None = None) -> None:
        self.lease: str | None = None
        """Lease renewed by heartbeats, once set."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._channels = tuple(
            _Channel(DealerSocket(self._context, one, keys)) for one in (address, control_address(address))
        )
        self._ids = itertools.count(1)
        self._inbox: deque[tuple[_Channel, PendingRequest]] = deque()
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._next_heartbeat = 0.0
        self._closing, self._closed = False, False
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="worldsim-client", daemon=True)
        self._thread.start()

    def request(
        self,
        header: Mapping[str, Any],
        payloads: Sequence[Any] = (),
        *,
        seconds: float,
        control: bool = False,
    ) -> Future[Message]:
        """Send a request; its future has the reply or an error after ``seconds`` at the latest.

        Raises:
            BridgeError: a closed client, one of another process, or a message beyond the limits.
        """
        self._check_usable()
        request = PendingRequest({**header, "id": next(self._ids)}, payloads, seconds)
        with self._lock:
            if self._closing:
                raise BridgeError("a client must be open", header["op"], "make a new one")
            self._inbox.append((self._channels[control], request))
        self._wake()
        return request.answer

    def close(self) -> None:
        """Fail pending requests and disconnect; closing twice is fine."""
        with self._lock:
            self._closing = True
        if self._process == os.getpid() and threading.current_thread() is not self._thread:
            self._wake()
            self._thread.join()

    @property
    def in_io_thread(self) -> bool:
        """True in the connection's own thread, where waiting for a reply would deadlock."""
        return threading.current_thread() is self._thread

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            rule = "a client must be used in the process that made it"
            raise BridgeError(rule, f"process {os.getpid()}", "make one in each process")

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full of wake-ups already, or closed
            self._wake_write.send(b"!")

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_read, zmq.POLLIN)
        for channel in self._channels:
            poller.register(channel.dealer.socket, zmq.POLLIN)
            poller.register(channel.dealer.monitor, zmq.POLLIN)
        try:
            while not self._closing:
                if any(
                    entry is self._wake_read or entry == self._wake_read.fileno()
                    for entry, _ in poller.poll(self._poll_timeout_ms())
                ):
                    self._wake_read.recv(4096)
                self._drain_inbox()
                self._send_heartbeat()
                for channel in self._channels:
                    channel.run_once()
        finally:
            self._shut_down()

    def _poll_timeout_ms(self) -> int:
        """Milliseconds until the next event, rounded up to avoid busy polling."""
        next_due = min(channel.next_due for channel in self._channels)
        if self.lease is not None:
            next_due = min(next_due, self._next_heartbeat)
        return math.ceil(1000 * max(0.0, min(next_due - time.monotonic(), _HEARTBEAT_SECONDS)))

    def _drain_inbox(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        while self._inbox:
            channel, request = self._inbox.popleft()
            channel.add(request)

    def _send_heartbeat(self) -> None:
        if self.lease is None or time.monotonic() < self._next_heartbeat:
            return
        self._next_heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
        header = {"op": "heartbeat", "id": next(self._ids), "lease": self.lease}
        self._channels[1].add(PendingRequest(header, (), 3 * _HEARTBEAT_SECONDS, is_heartbeat=True))

    def _shut_down(self) -> None:
        with self._lock:
            self._closing = True
        self._drain_inbox()
        for channel in self._channels:
            channel.close()
        self._context.term()
        self._wake_read.close()
        self._wake_write.close()


class _Channel:
    """Socket with its requests in flight; used by the connection's thread only."""

    def __init__(self, dealer: DealerSocket) -> None:
        self.dealer = dealer
        self._in_flight: dict[int, PendingRequest] = {}
        self._backlog: deque[PendingRequest] = deque()
        self._timers: list[tuple[float, int]] = []

    @property
    def next_due(self) -> float:
        """Time of the next due request."""
        return self._timers[0][0] if self._timers else float("inf")

    def add(self, request: PendingRequest) -> None:
        """Queue a request for sending."""
        self._backlog.append(request)

    def run_once(self) -> None:
        """Handle received replies and due requests."""
        reconnected = self.dealer.poll_events()
        if self.dealer.refused:
            rule = "a client's key must be known to the server"
            self._fail(
                PermissionDeniedError(
                    rule, None, "give the server its public key", code=Code.PERMISSION_DENIED
                )
            )
        while (parts := self.dealer.receive()) is not None:
            self._handle(parts)
        if reconnected:
            for number in list(self._in_flight):
                self._send(number)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            at, number = heapq.heappop(self._timers)
            if number in self._in_flight and self._in_flight[number].next_check == at:
                self._check_due(number)
        while self._backlog and len(self._in_flight) < _MAX_IN_FLIGHT:
            self._begin(self._backlog.popleft())

    def close(self) -> None:
        """Fail pending requests and close the socket."""
        self._fail(BridgeError("a client must stay open until it is answered", None, code="UNANSWERED"))
        self.dealer.close()

    def _begin(self, request: PendingRequest) -> None:
        number = request.header["id"]
        self._in_flight[number] = request
        self._check_due(number)

    def _check_due(self, number: int) -> None:
        request = self._in_flight[number]
        if request.timed_out:
            del self._in_flight[number]
            request.fail()
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        request = self._in_flight[number]
        if self.dealer.send(request.parts):
            request.mark_sent()
        else:
            request.schedule(_SEND_RETRY_SECONDS)
        heapq.heappush(self._timers, (request.next_check, number))

    def _handle(self, parts: list[bytes]) -> None:
        try:
            reply = decode(parts, REPLY)
        except BridgeError as error:
            self._fail(error)
            return
        number = reply.header.get("id")
        request = self._in_flight.get(number) if isinstance(number, int) else None
        if request is None:
            return  # the second answer to a request that was sent twice
        if request.handle_reply(reply):
            del self._in_flight[request.header["id"]]
        else:
            heapq.heappush(self._timers, (request.next_check, request.header["id"]))

    def _fail(self, error: BridgeError) -> None:
        failed = [*self._in_flight.values(), *self._backlog]
        self._in_flight.clear()
        self._backlog.clear()
        for request in failed:
            request.answer.set_exception(error)
