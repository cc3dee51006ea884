"""The sockets' thread: reads what comes in, answers what needs no engine, sends what it answered."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from worldsim.bridge.batcher import Batcher
from worldsim.bridge.journal import Journal
from worldsim.bridge.keeper import BrokenError
from worldsim.bridge.leases import Lease, Leases, pack_records
from worldsim.bridge.letter import Letter
from worldsim.bridge.metrics import Meter
from worldsim.bridge.peers import Peer, Peers
from worldsim.bridge.protocol import Code, Limits
from worldsim.bridge.replies import accept, refuse, reply_to
from worldsim.bridge.requests import Reader, Request
from worldsim.bridge.sessions import Sessions
from worldsim.bridge.shares import Shares
from worldsim.bridge.sockets import Sockets
from worldsim.bridge.tasks import Fork, Open, Restore
from worldsim.errors import BridgeError

__all__ = ["Desk"]

_AT_ONCE = 64
"""Messages that are taken from one socket before the other gets its turn."""
_READ = 16
"""Requests for the engine that are read in one turn."""
_TICK = 0.05
"""Seconds between two looks at leases and the rest."""
_TOGETHER = 16
"""Refusals that leave together: to wake ZeroMQ's thread for each takes longer than to send it."""
_BOTHER = 4
"""Malformed messages of one socket after which the turn goes to the next."""
_REST = (0.001, 0.005)
"""Seconds at least and at most that malformed messages have to wait once one was refused."""
_GOODBYE = 2.0
"""Seconds that the last answers may take to leave."""
_PLAIN = 512
"""Bytes of a header that is not charged for: what may wait of them is bounded by count."""
_UNPACKED = 16
"""Times as much as a header takes once it is read."""


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
        keyed: whether clients have keys.
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
        keyed: bool = False,
        front: bool = False,
    ) -> None:
        self._sockets, self._batcher, self._sessions = sockets, batcher, sessions
        self._leases, self._journal, self._reader = leases, journal, reader
        self._limits, self._meter = limits, meter
        self._hello, self._info, self._room, self._front = dict(hello), info, room, front
        self._shares = Shares(leases, sessions, room, limits.sessions, keyed=keyed)
        self._peers = Peers(limits.rate, limits.malformed)
        self._unread: deque[Letter] = deque()
        """Requests for the engine whose envelope alone has been looked at."""
        self._accepted: list[Request] = []
        """Requests for the engine that have just come in."""
        self._refusals: list[tuple[Peer, list[Any]]] = []
        """Not sent yet, though they will be before the turn ends."""
        self._done: deque[Request] = deque()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        sockets.watch(self._wake_read)
        self._answered = select.poll()
        self._answered.register(self._wake_read, select.POLLIN)
        """Waits for the engine's answers alone."""
        self._waking, self._wakeable = threading.Lock(), True
        self.draining = self._stopping = False
        self._bothers = 0
        """Malformed messages of this turn."""
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
            while goodbye is None or (time.monotonic() < goodbye and self._busy):
                self._sockets.poll(0 if self._unread else _TICK)
                now = self.turned = time.monotonic()
                if not self._front:
                    self._leases.listen(now)
                if self._sockets.ready(self._wake_read):
                    self._quiet()
                self._send_answers()
                for control in (True, False):
                    self._receive(now, control=control)
                self._send_refusals()
                self._read()
                self._send_refusals()
                self._rest(time.monotonic() - now)
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

    @property
    def _busy(self) -> bool:
        """Whether there is anything left to answer or to send."""
        return bool(self._done or self._unread or self._sockets.unsent)

    def _rest(self, worked: float) -> None:
        """After malformed messages nothing is taken in for twice as long as the turn took or until an answer.

        The two threads share the interpreter, and to take each message as it comes slows the engine most. So
        who sends a flood of them gets a third of this thread's time, and the steps of others go on.
        """
        if self._bothers:
            self._bothers = 0
            least, most = _REST
            self._answered.poll(1000 * min(max(2 * worked, least), most))

    def _quiet(self) -> None:
        try:
            os.read(self._wake_read, 65536)
        except BlockingIOError:
            return

    def _receive(self, now: float, *, control: bool) -> None:
        """Take in what has come, and answer what can be answered now: refusals, above all."""
        most = self._bothers + _BOTHER
        for _ in range(_AT_ONCE):
            incoming = self._sockets.receive(control=control)
            if incoming is None:
                return
            if self._front:
                self._leases.listen(now)
            peer = self._peers.meet(control, incoming.identity, incoming.key, now)
            self._handle(Letter(incoming.parts, peer, now, incoming.charge), self._take)
            if len(self._refusals) >= _TOGETHER:
                self._send_refusals()
            if self._bothers == most:
                return

    def _read(self) -> None:
        """Read some of the requests for the engine."""
        for _ in range(min(len(self._unread), _READ)):
            letter = self._unread.popleft()
            if not self._handle(letter, self._pass_on):
                letter.peer.release(letter.envelope.session)
        # Together: an engine that begins with the first of many takes the processor from those that follow.
        if self._accepted and (not self._unread or len(self._accepted) >= _AT_ONCE):
            accepted, self._accepted = self._accepted, []
            self._batcher.put(accepted)

    def _handle(self, letter: Letter, work: Callable[[Letter], None]) -> bool:
        """Whether it could be done."""
        try:
            work(letter)
            return True
        except BridgeError as error:
            self._refuse(letter, error)
        except BrokenError:
            raise
        except Exception:  # one message must never end the service of all others
            logging.getLogger("worldsim").exception("a message could not be handled")
            self._meter.refused(Code.INTERNAL)
        return False

    def _take(self, letter: Letter) -> None:
        letter.open(front=self._front)
        self._check_rate(letter.peer, letter.arrived)
        if letter.peer.control:
            self._answer_control(letter)
            return
        self._check_open()
        self._check_queue(letter.peer, letter.envelope.session)
        self._charge(letter)
        letter.peer.take(letter.envelope.session)
        self._unread.append(letter)

    def _refuse(self, letter: Letter, error: BridgeError) -> None:
        self._meter.refused(error.code)
        if error.code in (Code.BAD_REQUEST, Code.VERSION):
            self._meter.malformed()
            self._bothers += 1
            if not letter.peer.malformed.take(letter.arrived):
                return
        self._refusals.append((letter.peer, refuse(letter.envelope, error)))

    def _send_refusals(self) -> None:
        for peer, parts in self._refusals:
            self._send(peer, parts)
        if self._refusals:
            self._refusals.clear()
            self._sockets.flush()

    def _send(self, peer: Peer, parts: list[Any]) -> None:
        """What there is no room for is dropped, and asked for again by the client."""
        self._sockets.send(peer.identity, parts, control=peer.control)

    def _check_rate(self, peer: Peer, now: float) -> None:
        if not peer.requests.take(now):
            rule = f"a client may send {self._limits.rate} requests a second"
            raise BridgeError(rule, None, "send fewer", code=Code.BUSY, retry_after_ms=1000 * (1 - now % 1))

    def _answer_control(self, letter: Letter) -> None:
        envelope, fields = letter.envelope, letter.fields
        if letter.payloads:
            raise BridgeError("a control request has no payloads", len(letter.payloads))
        told: list[bytes] = []
        if envelope.op == "hello":
            values = self._greet(letter)
        elif envelope.op == "heartbeat":
            fields.end()
            self._leases.need(envelope.lease, letter.key, letter.arrived)
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
        self._send(letter.peer, accept(envelope, values, told))

    def _greet(self, letter: Letter) -> dict[str, Any]:
        client, old, now = letter.fields.text("client", 64), letter.envelope.lease, letter.arrived
        letter.fields.end()
        lease = self._leases.find(old, letter.key, now)
        if lease is None:
            self._check_open()
            owner = "" if self._front else letter.peer.identity.hex()
            self._leases.check(letter.key, owner)
            if self._leases.full and (spare := self._shares.spare()) is not None:
                self._end(spare)
            lease = self._leases.grant(letter.key, client, now, old if self._front else "", owner)
            self._write(lease)
        sessions = {held.name: held.seq for held in self._sessions.of(lease.token)}
        return {**self._hello, "lease": lease.token, "ttl_s": self._leases.ttl, "sessions": sessions}

    def _end(self, lease: Lease) -> None:
        self._leases.end(lease)
        self._batcher.end(lease.token)

    def _write(self, lease: Lease) -> None:
        """A lease that cannot be written down is not given."""
        if self._journal is None:
            return
        try:
            self._journal.append(lease.record())
        except (BridgeError, OSError) as error:
            if isinstance(error, BridgeError) and error.code == Code.BUSY:
                self._leases.end(lease)
                raise
            raise BrokenError(str(error)) from error

    def _pass_on(self, letter: Letter) -> None:
        """To the engine."""
        self._check_open()
        request = self._request(letter)
        lease = self._leases.need(letter.envelope.lease, letter.key, letter.arrived)
        self._make(lease, request)
        self._meter.request(letter.envelope.op)
        lease.waiting += 1
        self.waiting += 1
        self._accepted.append(request)

    def _request(self, letter: Letter) -> Request:
        envelope, peer, arrived = letter.envelope, letter.peer, letter.arrived
        if letter.step is not None:
            return self._reader.read_step(letter.step, envelope, peer, arrived)
        request = self._reader.read(envelope, letter.fields, letter.payloads, peer, arrived)
        request.charge = letter.charge
        return request

    def _check_open(self) -> None:
        if self.draining:
            raise BridgeError(
                "a server takes no requests at its end", None, "reconnect later", code=Code.DRAINING
            )

    def _check_queue(self, peer: Peer, session: str) -> None:
        if not peer.has_room(session, self._limits.waiting):
            peer.refused = self.turned
            rule = f"a client may have {self._limits.waiting} requests waiting, each session an equal part"
            raise BridgeError(rule, peer.used, "await some", code=Code.BUSY, retry_after_ms=self._wait())
        most = max(1024, 8 * self._room)
        if self.waiting + len(self._unread) >= most:
            rule = f"a server may have {most} requests waiting"
            wait = 2 * self._wait()
            raise BridgeError(rule, self.waiting, "try again later", code=Code.BUSY, retry_after_ms=wait)

    def _wait(self) -> float:
        """Milliseconds, a batch at most, until there is room; not so long for all, or they come together."""
        return max(10.0, 1000 * self._batcher.step_seconds * random.uniform(0.5, 1.0))

    def _charge(self, letter: Letter) -> None:
        """Charge for what is made of a message while it waits: its header's values, its payloads' copies."""
        header, payloads = len(letter.parts[1]), sum(map(len, letter.payloads))
        size = payloads + (_UNPACKED * header if header > _PLAIN else 0)
        if size and not letter.charge.grow(size):
            rule, wait = "what waits for a server must have room", 2 * self._wait()
            raise BridgeError(rule, size, "try again later", code=Code.BUSY, retry_after_ms=wait)

    def _make(self, lease: Lease, request: Request) -> None:
        """A full server says so at once; the last word is the engine's thread's."""
        task = request.tasks[0]
        if isinstance(task, Open | Restore | Fork):
            names = task.children if isinstance(task, Fork) else (task.session,)
            request.making = sum(name not in self._sessions for name in names)
            self._shares.make(lease, request.making, request.arrived)

    def _send_answers(self) -> None:
        while self._done:
            request = self._done.popleft()
            self.waiting -= 1
            request.peer.release(request.envelope.session)
            self._leases.release(request.envelope.lease, self.turned)
            if request.making:
                self._shares.made(request.envelope.lease, request.making)
            for answer in request.answers:
                if isinstance(answer, BridgeError):
                    self._meter.refused(answer.code)
            try:
                self._send(request.peer, reply_to(request))
            except Exception:  # one answer must never end the service of all others
                logging.getLogger("worldsim").exception("an answer could not be sent")
                self._meter.refused(Code.INTERNAL)
            request.charge = None
        self._sockets.flush()

    def _look_around(self, now: float) -> None:
        for lease in self._leases.expire(now):
            self._batcher.end(lease.token)
        self._peers.prune(now)
