"""The connections of a server's clients: how much each has asked for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["Allowance", "Peer", "Peers"]

_IDLE = 60.0
_MOST = 4096


@dataclass(slots=True)
class Allowance:
    """So many a second."""

    most: int
    _second: int = 0
    _used: int = 0

    def take(self, now: float) -> bool:
        """Whether there is one left in this second."""
        if int(now) != self._second:
            self._second, self._used = int(now), 0
        self._used += 1
        return self._used <= self.most


@dataclass(slots=True, eq=False)
class Peer:
    """One connection to one socket."""

    control: bool
    """Whether it is the control socket's."""
    identity: bytes
    key: str
    """Its authenticated key; empty without authentication."""
    requests: Allowance
    malformed: Allowance
    seen: float = 0.0
    under_way: dict[str, int] = field(default_factory=dict)
    """Requests that have come and are not answered yet, by session."""
    _taken: int = 0
    """All of them."""
    refused: float = 0.0
    """When it was last told to ask later."""

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way to it."""
        return not self.under_way

    @property
    def used(self) -> int:
        """All that is under way for it."""
        return self._taken

    def has_room(self, session: str, most: int) -> bool:
        """Whether one more request of a session may wait, where ``most`` of all its sessions may.

        Each session that has one under way gets an equal part: a few that ask far ahead would take the places
        of all others, and batches would leave half full.
        """
        sessions = len(self.under_way) + (session not in self.under_way)
        return self.used < most and self.under_way.get(session, 0) < max(1, most // sessions)

    def take(self, session: str) -> None:
        """One more is under way."""
        self.under_way[session] = self.under_way.get(session, 0) + 1
        self._taken += 1

    def release(self, session: str) -> None:
        """One of them is answered."""
        self._taken -= 1
        self.under_way[session] -= 1
        if not self.under_way[session]:
            del self.under_way[session]


class Peers:
    """All connections that were heard of lately. Used by one thread.

    Args:
        rate: requests of one a second.
        malformed: malformed messages of one a second that are answered.
    """

    def __init__(self, rate: int, malformed: int) -> None:
        self._rate, self._malformed = rate, malformed
        self._peers: OrderedDict[tuple[bool, bytes], Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def meet(self, control: bool, identity: bytes, key: str, now: float) -> Peer:
        """The connection that a message came from."""
        name = (control, identity)
        peer = self._peers.get(name)
        if peer is None or peer.key != key:
            peer = Peer(control, identity, key, Allowance(self._rate), Allowance(self._malformed))
            self._peers[name] = peer
        self._peers.move_to_end(name)
        peer.seen = now
        return peer

    def prune(self, now: float) -> None:
        """Forget connections that have been silent for long, and the oldest if there are too many."""
        for name, peer in list(self._peers.items()):
            if now - peer.seen < _IDLE and len(self._peers) <= _MOST:
                return
            if peer.idle:
                del self._peers[name]
