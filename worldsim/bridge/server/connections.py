"""Connections of a server's clients, with their rates and requests in flight."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["ClientConnection", "ConnectionTable", "RateLimiter"]

_IDLE_SECONDS = 60.0
_MAX_CONNECTIONS = 4096


@dataclass(slots=True)
class RateLimiter:
    """Rate limit over whole seconds."""

    limit: int
    _second: int = 0
    _count: int = 0

    def allow(self, now: float) -> bool:
        """Count one event; return False beyond the limit of this second."""
        if int(now) != self._second:
            self._second, self._count = int(now), 0
        self._count += 1
        return self._count <= self.limit


@dataclass(slots=True, eq=False)
class ClientConnection:
    """One client's connection to one socket."""

    control: bool
    """True for the control socket."""
    identity: bytes
    key: str
    """Authenticated key; empty without authentication."""
    requests: RateLimiter
    malformed: RateLimiter
    last_seen: float = 0.0
    in_flight: dict[str, int] = field(default_factory=dict)
    """Unanswered requests by session."""
    _in_flight_total: int = 0
    """Total of ``in_flight``."""
    last_refused: float = 0.0
    """Time of its last ``UNAVAILABLE``."""

    @property
    def idle(self) -> bool:
        """True if it awaits no reply."""
        return not self.in_flight

    @property
    def in_flight_total(self) -> int:
        """Number of unanswered requests."""
        return self._in_flight_total

    def has_room(self, session: str, limit: int) -> bool:
        """Return True if one more request of a session may wait, with a limit for all its sessions.

        Each session that has one under way gets an equal part: a few that ask far ahead would take the places
        of all others, and batches would leave half full.
        """
        sessions = len(self.in_flight) + (session not in self.in_flight)
        return self.in_flight_total < limit and self.in_flight.get(session, 0) < max(1, limit // sessions)

    def start_request(self, session: str) -> None:
        """Count a request."""
        self.in_flight[session] = self.in_flight.get(session, 0) + 1
        self._in_flight_total += 1

    def finish_request(self, session: str) -> None:
        """Count a reply."""
        self._in_flight_total -= 1
        self.in_flight[session] -= 1
        if not self.in_flight[session]:
            del self.in_flight[session]


class ConnectionTable:
    """All recently active connections. Used by one thread.

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
        """Return the connection of a message, a new one if need be."""
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
        """Forget idle connections, and the oldest if there are too many."""
        for name, connection in list(self._connections.items()):
            if now - connection.last_seen < _IDLE_SECONDS and len(self._connections) <= _MAX_CONNECTIONS:
                return
            if connection.idle:
                del self._connections[name]
