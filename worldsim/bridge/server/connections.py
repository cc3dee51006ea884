"""The connections of a server's clients: how much each has asked for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["ClientConnection", "ConnectionTable", "RateLimiter"]

_IDLE_SECONDS = 60.0
_MAX_CONNECTIONS = 4096


@dataclass(slots=True)
class RateLimiter:
    """So many a second."""

    limit: int
    _second: int = 0
    _count: int = 0

    def allow(self, now: float) -> bool:
        """Whether there is one left in this second."""
        if int(now) != self._second:
            self._second, self._count = int(now), 0
        self._count += 1
        return self._count <= self.limit


@dataclass(slots=True, eq=False)
class ClientConnection:
    """One connection to one socket."""

    control: bool
    """Whether it is the control socket's."""
    identity: bytes
    key: str
    """Its authenticated key; empty without authentication."""
    requests: RateLimiter
    malformed: RateLimiter
    last_seen: float = 0.0
    in_flight: dict[str, int] = field(default_factory=dict)
    """Requests that have come and are not answered yet, by session."""
    _in_flight_total: int = 0
    """All of them."""
    last_refused: float = 0.0
    """When it was last told to ask later."""

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way to it."""
        return not self.in_flight

    @property
    def in_flight_total(self) -> int:
        """All that is under way for it."""
        return self._in_flight_total

    def has_room(self, session: str, limit: int) -> bool:
        """Whether one more request of a session may wait, where ``limit`` of all its sessions may.

        Each session that has one under way gets an equal part: a few that ask far ahead would take the places
        of all others, and batches would leave half full.
        """
        sessions = len(self.in_flight) + (session not in self.in_flight)
        return self.in_flight_total < limit and self.in_flight.get(session, 0) < max(1, limit // sessions)

    def start_request(self, session: str) -> None:
        """One more is under way."""
        self.in_flight[session] = self.in_flight.get(session, 0) + 1
        self._in_flight_total += 1

    def finish_request(self, session: str) -> None:
        """One of them is answered."""
        self._in_flight_total -= 1
        self.in_flight[session] -= 1
        if not self.in_flight[session]:
            del self.in_flight[session]


class ConnectionTable:
    """All connections that were heard of lately. Used by one thread.

    Args:
        rate: requests of one a second.
        malformed: malformed messages of one a second that are answered.
    """

    def __init__(self, rate: int, malformed: int) -> None:
        self._rate, self._malformed = rate, malformed
        self._connections: OrderedDict[tuple[bool, bytes], ClientConnection] = OrderedDict()

    def __len__(self) -> int:
        return len(self._connections)

    def lookup(self, control: bool, identity: bytes, key: str, now: float) -> ClientConnection:
        """The connection that a message came from."""
        name = (control, identity)
        connection = self._connections.get(name)
        if connection is None or connection.key != key:
            connection = ClientConnection(
                control, identity, key, RateLimiter(self._rate), RateLimiter(self._malformed)
            )
            self._connections[name] = connection
        self._connections.move_to_end(name)
        connection.last_seen = now
        return connection

    def prune(self, now: float) -> None:
        """Forget connections that have been silent for long, and the oldest if there are too many."""
        for name, connection in list(self._connections.items()):
            if now - connection.last_seen < _IDLE_SECONDS and len(self._connections) <= _MAX_CONNECTIONS:
                return
            if connection.idle:
                del self._connections[name]
