"""Leases: ownership of sessions, with an expiry time that every message renews."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from worldsim.bridge.wire.protocol import Code
from worldsim.errors import BridgeError

__all__ = ["Lease", "Leases", "pack_records", "unpack_records"]

_PAUSE_TOLERANCE = 1.0
"""Seconds in which nobody was listened to that do not count as silence."""
_MAX_LEASES = 4096
_MAX_PER_KEY = _MAX_LEASES // 2
_MAX_PER_CONNECTION = 64


@dataclass(slots=True, eq=False)
class Lease:
    """Lease of one client."""

    token: str
    key: str
    """The authenticated key that it is bound to; empty without authentication."""
    client: str
    expires: float
    owner: str = ""
    """Owner for quotas: its key, or without one the connection that sent ``hello``."""
    waiting: int = 0
    """Unanswered requests; the lease does not expire before they are answered."""

    def record(self) -> dict[str, Any]:
        """Return the journal record."""
        return {"op": "lease", "lease": self.token, "key": self.key, "client": self.client}


class Leases:
    """All leases. Used by one thread; times are seconds on one clock.

    Args:
        ttl: seconds that a lease lasts without a sign of life.
    """

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self._leases: dict[str, Lease] = {}
        self.owned: Counter[str] = Counter()
        """Number of leases per owner."""
        self._last_poll: float | None = None

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, token: str) -> bool:
        return token in self._leases

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    @property
    def full(self) -> bool:
        """True if no more leases can be granted."""
        return len(self._leases) >= _MAX_LEASES

    def end(self, lease: Lease) -> None:
        """Remove a lease."""
        del self._leases[lease.token]
        self.owned[lease.owner] -= 1
        if not self.owned[lease.owner]:
            del self.owned[lease.owner]

    def record_poll(self, now: float) -> None:
        """Clients can be heard. That they could not be for a while, as the server stood still, is not held
        against them: all leases last so much longer."""
        missed = now - (now if self._last_poll is None else self._last_poll)
        if missed > _PAUSE_TOLERANCE:
            for lease in self._leases.values():
                lease.expires += missed
        self._last_poll = now

    def recover(self, record: dict[str, Any], now: float) -> None:
        """Restore a lease from its journal record, with its full time."""
        token = record["lease"]
        key = record["key"]
        self._add(Lease(token, key, record["client"], now + self.ttl, key or token))

    def grant(self, key: str, client: str, now: float, token: str = "", owner: str = "") -> Lease:
        """Grant a lease; a router brings its own ``token``.

        Raises:
            BridgeError: ``UNAVAILABLE``, there are too many; ``RESOURCE_EXHAUSTED``, its owner has too many.
        """
        self.check(key, owner)
        if self.full:
            rule, remedy = f"a server has {_MAX_LEASES} leases at most", "try again later"
            wait = self.ttl * 1000
            raise BridgeError(rule, len(self), remedy, code=Code.UNAVAILABLE, retry_after_ms=wait)
        token = token or secrets.token_hex(16)
        lease = Lease(token, key, client, now + self.ttl, key or owner or token)
        self._add(lease)
        return lease

    def check(self, key: str, owner: str) -> None:
        """Raise ``RESOURCE_EXHAUSTED`` if a key, or a connection without one, has too many leases."""
        most = _MAX_PER_KEY if key else _MAX_PER_CONNECTION
        if self.owned[key or owner] >= most:
            rule, remedy = f"a {'key' if key else 'connection'} may have {most} leases", "use those you have"
            raise BridgeError(rule, self.owned[key or owner], remedy, code=Code.RESOURCE_EXHAUSTED)

    def find(self, token: str, key: str, now: float) -> Lease | None:
        """A lease that is alive, renewed by this; None if there is none.

        Raises:
            BridgeError: ``PERMISSION_DENIED``, it is bound to another key.
        """
        lease = self._leases.get(token)
        if lease is None:
            return None
        if lease.key != key:
            rule, remedy = (
                "a lease must be used with the key that it was given to",
                "say hello for one of your own",
            )
            raise BridgeError(rule, None, remedy, code=Code.PERMISSION_DENIED)
        lease.expires = now + self.ttl
        return lease

    def require(self, token: str, key: str, now: float) -> Lease:
        """Like ``find``.

        Raises:
            BridgeError: ``PERMISSION_DENIED``, or ``UNKNOWN_SESSION``: no such lease, or it ran out.
        """
        lease = self.find(token, key, now)
        if lease is None:
            rule, remedy = "a request's lease must be alive", "say hello again"
            raise BridgeError(rule, token[:4] + "...", remedy, code=Code.UNKNOWN_SESSION)
        return lease

    def release(self, token: str, now: float) -> None:
        """Count an answered request, and renew the lease."""
        lease = self._leases.get(token)
        if lease is not None:
            lease.waiting -= 1
            lease.expires = now + self.ttl

    def expire(self, now: float) -> list[Lease]:
        """Remove and return expired leases; none while the server itself was stopped."""
        if self._last_poll is not None and now - self._last_poll > _PAUSE_TOLERANCE:
            return []
        ended = [lease for lease in self._leases.values() if lease.expires < now and not lease.waiting]
        for lease in ended:
            self.end(lease)
        return ended

    def _add(self, lease: Lease) -> None:
        self._leases[lease.token] = lease
        self.owned[lease.owner] += 1


def pack_records(records: Iterable[dict[str, Any]]) -> bytes:
    """Pack lease records for the router."""
    packed: bytes = msgpack.packb(list(records))
    return packed


def unpack_records(packed: bytes) -> list[dict[str, Any]]:
    """Unpack the output of ``pack_records``."""
    records: list[dict[str, Any]] = msgpack.unpackb(packed)
    return records
