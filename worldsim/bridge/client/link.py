"""A thread of its own between the callers and the two sockets of a server."""

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

from worldsim.bridge.client.failures import NotYoursError
from worldsim.bridge.client.keys import ClientKeys
from worldsim.bridge.client.request import Request
from worldsim.bridge.client.wire import Wire
from worldsim.bridge.protocol import REPLY, Code, Message, control_address, decode
from worldsim.errors import BridgeError

__all__ = ["Link"]

_BEAT = 1.0
"""Seconds between heartbeats."""
_FULL = 0.02
"""Seconds after which a socket that was full is tried again."""
_WINDOW = 64
"""Requests that are under way on a socket at once; the server takes no more of one client."""


class Link:
    """Sends requests until they are answered: again after a silence, a new connection or a BUSY.

    Args:
        address: of the server's data socket; the control socket's follows from it.
        keys: for a server that asks for them.
    """

    def __init__(self, address: str, keys: ClientKeys | None = None) -> None:
        self.lease: str | None = None
        """Kept alive by heartbeats from when it is set."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._lanes = tuple(
            _Lane(Wire(self._context, one, keys)) for one in (address, control_address(address))
        )
        self._ids = itertools.count(1)
        self._orders: deque[tuple[_Lane, Request]] = deque()
        self._alarm, self._bell = socket.socketpair()
        for end in (self._alarm, self._bell):
            end.setblocking(False)
        self._next_beat = 0.0
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
        """Send a request; the future has its reply, or the failure, at the latest after ``seconds``.

        Raises:
            BridgeError: a closed client, one of another process, or a message beyond the limits.
        """
        self._check_usable()
        request = Request({**header, "id": next(self._ids)}, payloads, seconds)
        with self._lock:
            if self._closing:
                raise BridgeError("a client must be open", header["op"], "make a new one")
            self._orders.append((self._lanes[control], request))
        self._ring()
        return request.answer

    def close(self) -> None:
        """Give up what is under way and hang up; closing twice is fine."""
        with self._lock:
            self._closing = True
        if self._process == os.getpid() and threading.current_thread() is not self._thread:
            self._ring()
            self._thread.join()

    @property
    def here(self) -> bool:
        """Whether the caller runs in the link's own thread, where waiting for a reply would never end."""
        return threading.current_thread() is self._thread

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            rule = "a client must be used in the process that made it"
            raise BridgeError(rule, f"process {os.getpid()}", "make one in each process")

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # rung often enough already, or closed
            self._bell.send(b"!")

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._alarm, zmq.POLLIN)
        for lane in self._lanes:
            poller.register(lane.wire.socket, zmq.POLLIN)
            poller.register(lane.wire.monitor, zmq.POLLIN)
        try:
            while not self._closing:
                if any(
                    entry is self._alarm or entry == self._alarm.fileno()
                    for entry, _ in poller.poll(self._pause())
                ):
                    self._alarm.recv(4096)
                self._take_orders()
                self._beat()
                for lane in self._lanes:
                    lane.turn()
        finally:
            self._hang_up()

    def _pause(self) -> int:
        """Milliseconds until something is due, rounded up: not to ask over and over within the last one."""
        due = min(lane.due for lane in self._lanes)
        if self.lease is not None:
            due = min(due, self._next_beat)
        return math.ceil(1000 * max(0.0, min(due - time.monotonic(), _BEAT)))

    def _take_orders(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._alarm.recv(4096)
        while self._orders:
            lane, request = self._orders.popleft()
            lane.add(request)

    def _beat(self) -> None:
        if self.lease is None or time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + _BEAT
        header = {"op": "heartbeat", "id": next(self._ids), "lease": self.lease}
        self._lanes[1].add(Request(header, (), 3 * _BEAT, heart=True))

    def _hang_up(self) -> None:
        with self._lock:
            self._closing = True
        self._take_orders()
        for lane in self._lanes:
            lane.close()
        self._context.term()
        self._alarm.close()
        self._bell.close()


class _Lane:
    """A wire with the requests that are under way on it; used by the link's thread alone."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._under_way: dict[int, Request] = {}
        self._backlog: deque[Request] = deque()
        self._agenda: list[tuple[float, int]] = []

    @property
    def due(self) -> float:
        """When a request is to be looked at again."""
        return self._agenda[0][0] if self._agenda else float("inf")

    def add(self, request: Request) -> None:
        """Have a request sent in the next turn that has room for it."""
        self._backlog.append(request)

    def turn(self) -> None:
        """Take what has come, and see to what is due."""
        renewed, refused = self.wire.news()
        if refused:
            rule = "a client's key must be known to the server"
            self._fail(NotYoursError(rule, None, "give the server its public key", code=Code.NOT_YOURS))
        while (parts := self.wire.receive()) is not None:
            self._take(parts)
        if renewed:
            for number in list(self._under_way):
                self._send(number)
        now = time.monotonic()
        while self._agenda and self._agenda[0][0] <= now:
            at, number = heapq.heappop(self._agenda)
            if number in self._under_way and self._under_way[number].look == at:
                self._look(number)
        while self._backlog and len(self._under_way) < _WINDOW:
            self._start(self._backlog.popleft())

    def close(self) -> None:
        """Fail what is under way and hang up."""
        self._fail(BridgeError("a client must stay open until it is answered", None, code="UNANSWERED"))
        self.wire.close()

    def _start(self, request: Request) -> None:
        number = request.header["id"]
        self._under_way[number] = request
        self._look(number)

    def _look(self, number: int) -> None:
        request = self._under_way[number]
        if request.over:
            del self._under_way[number]
            request.give_up()
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        request = self._under_way[number]
        if self.wire.send(request.parts):
            request.sent()
        else:
            request.again(_FULL)
        heapq.heappush(self._agenda, (request.look, number))

    def _take(self, parts: list[bytes]) -> None:
        try:
            reply = decode(parts, REPLY)
        except BridgeError as error:
            self._fail(error)
            return
        number = reply.header.get("id")
        request = self._under_way.get(number) if isinstance(number, int) else None
        if request is None:
            return  # the second answer to a request that was sent twice
        if request.take(reply):
            del self._under_way[request.header["id"]]
        else:
            heapq.heappush(self._agenda, (request.look, request.header["id"]))

    def _fail(self, error: BridgeError) -> None:
        failed = [*self._under_way.values(), *self._backlog]
        self._under_way.clear()
        self._backlog.clear()
        for request in failed:
            request.answer.set_exception(error)
