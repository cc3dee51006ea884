"""The engines behind a front: kept running, greeted, and their sessions moved when one ends."""

from __future__ import annotations

import itertools
import logging
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from worldsim.bridge.front.link import Link
from worldsim.bridge.leases import Lease
from worldsim.bridge.protocol import Message
from worldsim.bridge.sockets import Sockets

__all__ = ["Fleet", "Seat"]

Then = Callable[[Message | None], None]
"""What is done with a reply; None where the engine ended before it came."""


@dataclass(slots=True)
class Seat:
    """Where a session is, and whose it is."""

    link: Link
    lease: str
    seq: int = 0
    """The last one known; of two engines that claim a session the one that is further has it."""


class Fleet:
    """Used by one thread.

    Args:
        words: of an engine's command line, by engine.
        state: folder of the journals, or None: the sessions of an engine that ends are lost.
        sockets: the front's, which wait for the engines' replies, too.
    """

    def __init__(self, words: Sequence[Sequence[str]], state: Path | None, sockets: Sockets) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="worldsim-")
        self._context: zmq.Context[Any] = zmq.Context()
        self._sockets = sockets
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[Link, Then]] = {}
        self._lease = Lease(secrets.token_hex(16), "", "front", 0.0)
        self.seats: dict[str, Seat] = {}
        folder = Path(self._folder.name)
        self.links = [
            Link(number, line, folder, state and state / f"engine-{number}", self._context)
            for number, line in enumerate(words)
        ]
        for link in self.links:
            self._watch(link)

    @property
    def ready(self) -> list[Link]:
        """Engines that take requests."""
        return [link for link in self.links if link.ready]

    @property
    def whole(self) -> bool:
        """Whether no engine is starting or moving: all sessions that there are can be named."""
        return bool(self.ready) and all(link.ready or link.lost for link in self.links)

    @property
    def waiting(self) -> int:
        """Requests that wait for replies."""
        return len(self._asked)

    def emptiest(self) -> Link | None:
        """Where one more session does least harm; None while no engine is ready."""
        used = dict.fromkeys(self.ready, 0)
        for seat in self.seats.values():
            if seat.link in used:
                used[seat.link] += 1
        return min(used, key=lambda link: (used[link], link.number), default=None)

    def ask(
        self,
        link: Link,
        header: Mapping[str, Any],
        payloads: Sequence[Any] = (),
        *,
        key: str,
        then: Then,
        control: bool = False,
    ) -> None:
        """Send a request to an engine on behalf of the client with ``key``."""
        number = next(self._ids)
        link.send({**header, "id": number, "key": key}, payloads, control=control)
        self._asked[number] = (link, then)

    def hello(self, link: Link, lease: Lease, then: Then) -> None:
        """Make a lease known to an engine."""
        header = {"op": "hello", "client": lease.client, "lease": lease.token}
        self.ask(link, header, key=lease.key, then=then, control=True)

    def seat(self, sessions: Mapping[str, int], link: Link, lease: str) -> None:
        """An engine says that it has sessions of a lease, each with its last seq."""
        for name, seq in sessions.items():
            seat = self.seats.get(name)
            if seat is None or seat.link is link or not seat.link.ready or seat.seq < seq:
                self.seats[name] = Seat(link, lease, seq)

    def receive(self) -> None:
        """Hand replies that have come to those who asked."""
        for link in self.links:
            for reply in link.receive():
                asked = self._asked.pop(reply.header["id"], None)
                if asked is not None:
                    asked[1](reply)

    def look_around(
        self, now: float, leases: Callable[[], Iterator[Lease]], recall: Callable[[bytes], list[Lease]]
    ) -> None:
        """Start what has to be started, and take note of what has ended.

        Args:
            now: on the monotonic clock, in seconds.
            leases: those that are alive.
            recall: takes in the leases that an engine has, and returns those that were not known.
        """
        for link in self.links:
            if link.ended(now):
                logging.getLogger("worldsim").warning("engine %d has ended", link.number)
                self._lose(link)
            if link.due(now):
                link.start()
                self._greet(link, leases, recall)

    def beat(self, leases: Iterator[Lease]) -> None:
        """Keep leases alive on all engines."""
        for lease in [self._lease, *leases]:
            for link in self.ready:
                header = {"op": "heartbeat", "id": 0, "lease": lease.token, "key": lease.key}
                link.send(header, control=True)

    def close(self) -> None:
        """End all engines."""
        for link in self.links:
            link.stop()
        for link in self.links:
            link.close()
        self._context.term()
        self._folder.cleanup()

    def _watch(self, link: Link) -> None:
        for socket in (link.data, link.control):
            self._sockets.watch(socket)

    def _greet(
        self, link: Link, leases: Callable[[], Iterator[Lease]], recall: Callable[[bytes], list[Lease]]
    ) -> None:
        """Have an engine say which leases it has written down: a front that was ended has forgotten them."""

        def told(reply: Message | None) -> None:
            if reply is None:
                return
            for lease in recall(reply.payloads[0]):
                for other in self.ready:
                    self.hello(other, lease, lambda reply, to=other, of=lease: self._seat(reply, to, of))  # type: ignore[misc]
            self._introduce(link, [self._lease, *leases()])

        self.ask(link, {"op": "leases"}, key="", then=told, control=True)

    def _seat(self, reply: Message | None, link: Link, lease: Lease) -> None:
        if reply is not None:
            self.seat(reply.header.get("sessions", {}), link, lease.token)

    def _introduce(self, link: Link, leases: Sequence[Lease]) -> None:
        """An engine is ready when it knows all leases."""
        left, claimed = len(leases), set[str]()

        def known(lease: Lease, reply: Message | None) -> None:
            nonlocal left
            if reply is None:
                return
            sessions = reply.header.get("sessions", {})
            self.seat(sessions, link, lease.token)
            claimed.update(sessions)
            left -= 1
            if not left:
                self.seats = {
                    name: seat
                    for name, seat in self.seats.items()
                    if seat.link is not link or name in claimed
                }
                link.greeted(reply.header)

        for lease in leases:
            self.hello(link, lease, lambda reply, lease=lease: known(lease, reply))  # type: ignore[misc]

    def _lose(self, link: Link) -> None:
        """An engine has ended: whoever asked it has to ask again, and its sessions move."""
        asked = [(number, then) for number, (to, then) in self._asked.items() if to is link]
        for number, _ in asked:
            del self._asked[number]
        for old in link.reconnect(self._context):
            self._sockets.forget(old)
            old.close(0)
        self._watch(link)
        sessions = [name for name, seat in self.seats.items() if seat.link is link]
        heir = self.emptiest()
        if link.state is None:
            for name in sessions:
                del self.seats[name]
        elif heir is not None and sessions:
            self._move(link, heir)
        for _, then in asked:
            then(None)

    def _move(self, link: Link, heir: Link) -> None:
        """Have one engine take over all sessions of another. Where it cannot, they wait for their own."""
        link.leaving = True

        def moved(reply: Message | None) -> None:
            link.leaving = False
            if reply is not None and reply.header["ok"]:
                for seat in self.seats.values():
                    if seat.link is link:
                        seat.link = heir
                logging.getLogger("worldsim").warning("engine %d took over its sessions", heir.number)

        header = {"op": "adopt", "lease": self._lease.token, "session": secrets.token_hex(16)}
        self.ask(heir, {**header, "folder": str(link.state)}, key="", then=moved)
