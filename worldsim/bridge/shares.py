"""Slots and leases, shared so that no client has all of them."""

from __future__ import annotations

from collections import Counter

from worldsim.bridge.leases import Lease, Leases
from worldsim.bridge.protocol import Code
from worldsim.bridge.sessions import Sessions
from worldsim.errors import BridgeError

__all__ = ["Shares"]

_LIVELY = 3.0
"""Seconds after its last word in which a client's slot is kept for it."""
_KEPT = 4
"""At most one in so many slots is kept for clients that have none yet."""


class Shares:
    """Used by one thread.

    Args:
        leases: all of them.
        sessions: to look at.
        room: sessions that the server has room for.
        each: of which one lease may have so many.
        keyed: whether clients have keys; then one key has three quarters of the room at most.
    """

    def __init__(self, leases: Leases, sessions: Sessions, room: int, each: int, *, keyed: bool) -> None:
        self._leases, self._sessions, self._room, self._keyed = leases, sessions, room, keyed
        self._each = each
        self._making: Counter[str] = Counter()
        """Sessions that are being made, by lease."""

    def make(self, lease: Lease, count: int, now: float) -> None:
        """A lease asks for so many sessions more.

        Raises:
            BridgeError: ``BUSY``, the server is full; ``LIMIT``, it or its key would have too many.
        """
        held = Counter(one.lease for one in self._sessions.all()) + self._making
        if held[lease.token] + count > self._each:
            rule, value = f"a lease may have {self._each} sessions", f"{held[lease.token]} and {count} more"
            raise BridgeError(rule, value, "close some", code=Code.LIMIT)
        free = self._room - held.total()
        if count > free:
            rule, remedy = f"the server has room for {self._room} sessions", "try again later"
            raise BridgeError(rule, self._room, remedy, code=Code.BUSY, retry_after_ms=1000)
        if held[lease.token] and count > free - self._kept(lease, held, now):
            rule, remedy = "some slots are kept for clients that have none yet", "try again later"
            raise BridgeError(rule, free, remedy, code=Code.BUSY, retry_after_ms=1000)
        if self._keyed:
            self._check_key(lease, count, held)
        self._making[lease.token] += count

    def made(self, token: str, count: int) -> None:
        """What ``make`` let pass has come to its end."""
        self._making[token] -= count
        if not self._making[token]:
            del self._making[token]

    def spare(self) -> Lease | None:
        """The lease that a full server takes back first: without sessions, of who has the most of them."""
        used = {one.lease for one in self._sessions.all()} | self._making.keys()
        owners = self._leases.owned
        idle = [lease for lease in self._leases if lease.token not in used and not lease.waiting]
        one = max(idle, key=lambda lease: (owners[lease.owner], -lease.expires), default=None)
        return one if one is not None and owners[one.owner] > 1 else None

    def _kept(self, lease: Lease, held: Counter[str], now: float) -> int:
        """Slots for the others: one for each client that has none, up to a quarter of all."""
        heard = now + self._leases.ttl - _LIVELY
        without = {one.owner for one in self._leases if not held[one.token] and one.expires > heard}
        without.discard(lease.owner)
        return min(len(without), self._room // _KEPT)

    def _check_key(self, lease: Lease, count: int, held: Counter[str]) -> None:
        most = max(1, self._room - self._room // _KEPT)
        used = sum(held[other.token] for other in self._leases if other.key == lease.key)
        if used + count > most:
            rule = f"the sessions of one key may be {most} of {self._room}"
            raise BridgeError(rule, f"{used} and {count} more", "close some", code=Code.LIMIT)
