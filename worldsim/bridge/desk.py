"""The sockets' thread: reads what comes in, answers what needs no engine, sends what it answered."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from worldsim.bridge.batcher import Batcher
from worldsim.bridge.fields import Fields
from worldsim.bridge.journal import Journal
from worldsim.bridge.keeper import BrokenError
from worldsim.bridge.leases import Leases, pack_records
from worldsim.bridge.metrics import Meter
from worldsim.bridge.peers import Peer, Peers
from worldsim.bridge.post import Post
from worldsim.bridge.protocol import Code, Limits, decode
from worldsim.bridge.replies import accept, refuse, reply_to
from worldsim.bridge.requests import Envelope, Reader, Request, read_envelope, read_name
from worldsim.bridge.sessions import Sessions
from worldsim.bridge.sockets import Incoming, Sockets
from worldsim.errors import BridgeError

__all__ = ["Desk"]

_AT_ONCE = 64
"""Messages that are taken from one socket before the other gets its turn."""
_TICK = 0.05
"""Seconds between two looks at outboxes, leases and the rest."""
_GOODBYE = 2.0
"""Seconds that the last answers may take to leave."""
_MAKERS = ("open", "restore", "fork")


class Desk:
    """Serves clients until it is stopped.

    Args:
        sockets: bound.
        batcher: does what needs the engine.
        sessions: to look at.
        leases: of which it keeps count.
        journal: that leases are written to, or None.
        reader: of requests.
        limits: of one client.
        meter: counts.
        hello: the unchanging part of its answer.
        info: all of that answer, made when asked.
        room: sessions that the server has room for.
        front: whether all messages come from a front, which says whose they are.
    """

    def __init__(
        self,
        sockets: Sockets,
        batcher: Batcher,
        sessions: Sessions,
        leases: Leases,
        journal: Journal | None,
        reader: Reader,
        limits: Limits,
        meter: Meter,
        *,
        hello: Mapping[str, Any],
        info: Callable[[], dict[str, Any]],
        room: int,
        front: bool = False,
    ) -> None:
        self._sockets, self._batcher, self._sessions = sockets, batcher, sessions
        self._leases, self._journal, self._reader = leases, journal, reader
        self._limits, self._meter = limits, meter
        self._hello, self._info, self._room, self._front = dict(hello), info, room, front
        self._peers = Peers(limits.rate, limits.malformed)
        self._post = Post(sockets, limits.waiting)
        self._done: deque[Request] = deque()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        sockets.watch(self._wake_read)
        self._waking, self._wakeable = threading.Lock(), True
        self.draining = self._stopping = False
        self.waiting = 0
        """Requests that the engine has not answered yet."""
        self.turned = time.monotonic()
        """When the thread last came round."""

    def done(self, requests: list[Request]) -> None:
        """Answered requests, to be sent; from any thread."""
        self._done.extend(requests)
        self.wake()

    def wake(self) -> None:
        """Come round at once; from any thread."""
        # Under a lock: a descriptor that is closed in between may be another file's by then.
        with self._waking, contextlib.suppress(BlockingIOError):  # full: it is awake already
            if self._wakeable:
                os.write(self._wake_write, b"\0")

    def stop(self) -> None:
        """Send what is answered, then return from ``run``; from any thread."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """The thread's work. Closes the sockets at its end."""
        tick, goodbye = 0.0, None
        try:
            while goodbye is None or (time.monotonic() < goodbye and (self._done or self._post.waiting)):
                self._sockets.poll(_TICK)
                now = self.turned = time.monotonic()
                self._quiet()
                self._send_answers()
                for control in (True, False):
                    self._receive(now, control=control)
                if now - tick > _TICK:
                    tick = now
                    self._look_around(now)
                if self._stopping and goodbye is None:
                    goodbye = now + _GOODBYE
        finally:
            self._sockets.close()
            with self._waking:
                self._wakeable = False
                for end in (self._wake_read, self._wake_write):
                    os.close(end)

    def _quiet(self) -> None:
        try:
            os.read(self._wake_read, 65536)
        except BlockingIOError:
            return

    def _receive(self, now: float, *, control: bool) -> None:
        for _ in range(_AT_ONCE):
            incoming = self._sockets.receive(control=control)
            if incoming is None:
                return
            peer = self._peers.meet(control, incoming.identity, incoming.key, now)
            try:
                self._take(incoming, peer, now)
            except BrokenError:
                raise
            except Exception:  # one message must never end the service of all others
                logging.getLogger("worldsim").exception("a message could not be handled")
                self._meter.refused(Code.INTERNAL)

    def _take(self, incoming: Incoming, peer: Peer, now: float) -> None:
        envelope = Envelope()
        try:
            message = decode(incoming.parts)
            fields = Fields(message.header, "a request")
            envelope = read_name(fields)
            envelope = read_envelope(fields, envelope, front=self._front)
            self._check_rate(peer, now)
            if peer.control:
                self._answer_control(envelope, fields, message.payloads, peer, now)
            else:
                self._pass_on(envelope, fields, message.payloads, peer, now)
        except BridgeError as error:
            self._refuse(peer, envelope, error, now)

    def _refuse(self, peer: Peer, envelope: Envelope, error: BridgeError, now: float) -> None:
        self._meter.refused(error.code)
        if error.code in (Code.BAD_REQUEST, Code.VERSION):
            self._meter.malformed()
            if not peer.malformed.take(now):
                return
        self._post.send(peer, refuse(envelope, error))

    def _check_rate(self, peer: Peer, now: float) -> None:
        if not peer.requests.take(now):
            rule = f"a client may send {self._limits.rate} requests a second"
            raise BridgeError(rule, None, "send fewer", code=Code.BUSY, retry_after_ms=1000 * (1 - now % 1))

    def _answer_control(
        self, envelope: Envelope, fields: Fields, payloads: list[Any], peer: Peer, now: float
    ) -> None:
        if payloads:
            raise BridgeError("a control request has no payloads", len(payloads))
        told: list[bytes] = []
        if envelope.op == "hello":
            values = self._greet(envelope, fields, peer, now)
        elif envelope.op == "heartbeat":
            fields.end()
            self._leases.need(envelope.lease, envelope.key or peer.key, now)
            values = {}
        elif envelope.op == "info":
            fields.end()
            values = self._info()
        elif envelope.op == "leases" and self._front:
            fields.end()
            values, told = {}, [pack_records(lease.record() for lease in self._leases)]
        else:
            known = "the control socket takes hello, heartbeat, info"
            raise BridgeError("a request's op must be known", envelope.op, known)
        self._meter.request(envelope.op)
        self._post.send(peer, accept(envelope, values, told))

    def _greet(self, envelope: Envelope, fields: Fields, peer: Peer, now: float) -> dict[str, Any]:
        client = fields.text("client", 64)
        fields.end()
        key = envelope.key or peer.key
        lease = self._leases.find(envelope.lease, key, now)
        if lease is None:
            self._check_open()
            lease = self._leases.grant(key, client, now, envelope.lease if self._front else "")
            self._write(lease.record())
        sessions = {held.name: held.seq for held in self._sessions.of(lease.token)}
        return {**self._hello, "lease": lease.token, "ttl_s": self._leases.ttl, "sessions": sessions}

    def _write(self, record: dict[str, Any]) -> None:
        if self._journal is None:
            return
        try:
            self._journal.append(record)
        except (BridgeError, OSError) as error:
            raise BrokenError(str(error)) from error

    def _pass_on(
        self, envelope: Envelope, fields: Fields, payloads: list[Any], peer: Peer, now: float
    ) -> None:
        """To the engine."""
        self._check_open()
        self._check_queue(peer)
        request = self._reader.read(envelope, fields, payloads, peer, now)
        lease = self._leases.need(envelope.lease, envelope.key or peer.key, now)
        self._check_room(request)
        self._meter.request(envelope.op)
        peer.waiting += 1
        lease.waiting += 1
        self.waiting += 1
        self._batcher.put(request)

    def _check_open(self) -> None:
        if self.draining:
            raise BridgeError(
                "a server takes no requests at its end", None, "reconnect later", code=Code.DRAINING
            )

    def _check_queue(self, peer: Peer) -> None:
        used, wait = peer.waiting + len(peer.outbox), max(10.0, 1000 * self._batcher.step_seconds)
        if used >= self._limits.waiting:
            rule = f"a client may have {self._limits.waiting} requests waiting"
            raise BridgeError(rule, used, "await some", code=Code.BUSY, retry_after_ms=wait)
        most = max(1024, 8 * self._room)
        if self.waiting >= most:
            rule = f"a server may have {most} requests waiting"
            raise BridgeError(rule, self.waiting, "try again later", code=Code.BUSY, retry_after_ms=2 * wait)

    def _check_room(self, request: Request) -> None:
        """A full server says so at once; the last word is the engine's thread's."""
        task = request.tasks[0]
        if request.envelope.op not in _MAKERS or isinstance(task, BridgeError):
            return
        if len(self._sessions) >= self._room and task.session not in self._sessions:
            rule, remedy = f"the server has room for {self._room} sessions", "try again later"
            raise BridgeError(rule, self._room, remedy, code=Code.BUSY, retry_after_ms=1000)

    def _send_answers(self) -> None:
        while self._done:
            request = self._done.popleft()
            self.waiting -= 1
            request.peer.waiting -= 1
            self._leases.release(request.envelope.lease, self.turned)
            for answer in request.answers:
                if isinstance(answer, BridgeError):
                    self._meter.refused(answer.code)
            self._post.send(request.peer, reply_to(request))

    def _look_around(self, now: float) -> None:
        self._post.flush()
        for lease in self._leases.expire(now):
            self._batcher.end(lease.token)
        self._peers.prune(now)
