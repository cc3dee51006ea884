"""Quotas of slots and leases per client."""

from __future__ import annotations

from collections import Counter

from worldsim.bridge.server.leases import Lease, Leases
from worldsim.bridge.server.sessions import Sessions
from worldsim.bridge.wire.protocol import Code
from worldsim.errors import BridgeError

__all__ = ["Quotas"]

_ACTIVE_SECONDS = 3.0
"""Seconds after its last message in which a slot is reserved for a client."""
_RESERVED_SHARE = 4
"""At most one in so many slots is reserved for clients without a session."""


class Quotas:
    """Used by one thread.

    Args:
        leases: table of all leases.
        sessions: table of all sessions.
        capacity: sessions that the server has room for.
        per_lease: largest number of sessions of a lease.
        authenticated: True if clients have keys; one key then has three quarters of the capacity at most.
    """

    def __init__(
        self, leases: Leases, sessions: Sessions, capacity: int, per_lease: int, *, authenticated: bool
    ) -> None:
        self._leases, self._sessions, self._capacity, self._authenticated = (
            leases,
            sessions,
            capacity,
            authenticated,
        )
        self._per_lease = per_lease
        self._reserved: Counter[str] = Counter()
        """Sessions that are being created, by lease."""

    def reserve(self, lease: Lease, count: int, now: float) -> None:
        """Reserve so many new sessions for a lease.

        Raises:
            BridgeError: ``UNAVAILABLE``, a full server; ``RESOURCE_EXHAUSTED``, too many for it or its key.
        """
        session_counts = Counter(one.lease for one in self._sessions.all()) + self._reserved
        if session_counts[lease.token] + count > self._per_lease:
            rule, value = (
                f"a lease may have {self._per_lease} sessions",
                f"{session_counts[lease.token]} and {count} more",
            )
            raise BridgeError(rule, value, "close some", code=Code.RESOURCE_EXHAUSTED)
        free = self._capacity - session_counts.total()
        if count > free:
            rule, remedy = f"the server has room for {self._capacity} sessions", "try again later"
            raise BridgeError(rule, self._capacity, remedy, code=Code.UNAVAILABLE, retry_after_ms=1000)
        if session_counts[lease.token] and count > free - self._reserved_slots(lease, session_counts, now):
            rule, remedy = "some slots are kept for clients that have none yet", "try again later"
            raise BridgeError(rule, free, remedy, code=Code.UNAVAILABLE, retry_after_ms=1000)
        if self._authenticated:
            self._check_key(lease, count, session_counts)
        self._reserved[lease.token] += count

    def release(self, token: str, count: int) -> None:
        """Release what ``reserve`` counted, once the request is answered."""
        self._reserved[token] -= count
        if not self._reserved[token]:
            del self._reserved[token]

    def reclaimable_lease(self) -> Lease | None:
        """Return the lease that a full server reclaims: an idle one of the owner with the most."""
        used = {one.lease for one in self._sessions.all()} | self._reserved.keys()
        owners = self._leases.owned
        idle = [lease for lease in self._leases if lease.token not in used and not lease.waiting]
        one = max(idle, key=lambda lease: (owners[lease.owner], -lease.expires), default=None)
        return one if one is not None and owners[one.owner] > 1 else None

    def _reserved_slots(self, lease: Lease, session_counts: Counter[str], now: float) -> int:
        """Number of slots reserved for other clients without a session, up to a quarter of all."""
        heard = now + self._leases.ttl - _ACTIVE_SECONDS
        without = {one.owner for one in self._leases if not session_counts[one.token] and one.expires > heard}
        without.discard(lease.owner)
        return min(len(without), self._capacity // _RESERVED_SHARE)

    def _check_key(self, lease: Lease, count: int, session_counts: Counter[str]) -> None:
        limit = max(1, self._capacity - self._capacity // _RESERVED_SHARE)
        used = sum(session_counts[other.token] for other in self._leases if other.key == lease.key)
        if used + count > limit:
            rule = f"the sessions of one key may be {limit} of {self._capacity}"
            raise BridgeError(rule, f"{used} and {count} more", "close some", code=Code.RESOURCE_EXHAUSTED)
