"""Memory budget for the messages of a server's clients."""

from __future__ import annotations

import threading

__all__ = ["MemoryBudget", "Reservation"]


class MemoryBudget:
    """Budget of bytes; may be used from any thread.

    Args:
        limit: bytes in all.
        per_client: of which one client may hold so many.
    """

    def __init__(self, limit: int, per_client: int) -> None:
        self.limit, self.per_client = limit, per_client
        self._by_owner: dict[str, int] = {}
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Reserved bytes."""
        return self._used

    def open_reservation(self, owner: str) -> Reservation:
        """Return an empty reservation of a client."""
        return Reservation(self, owner)

    def reserve(self, owner: str, size: int) -> bool:
        """Reserve more bytes; return False beyond a limit."""
        with self._lock:
            held = self._by_owner.get(owner, 0)
            if self._used + size > self.limit or held + size > self.per_client:
                return False
            self._used += size
            self._by_owner[owner] = held + size
            return True

    def release(self, owner: str, size: int) -> None:
        """Release bytes."""
        with self._lock:
            self._used -= size
            self._by_owner[owner] -= size
            if not self._by_owner[owner]:
                del self._by_owner[owner]


class Reservation:
    """Bytes of one message, released when the reservation is garbage-collected."""

    __slots__ = ("_budget", "_owner", "size")

    def __init__(self, budget: MemoryBudget, owner: str) -> None:
        self._budget, self._owner, self.size = budget, owner, 0

    def grow(self, size: int) -> bool:
        """Reserve more bytes; return False beyond a limit, without reserving any."""
        if not self._budget.reserve(self._owner, size):
            return False
        self.size += size
        return True

    def __del__(self) -> None:
        if self.size:
            self._budget.release(self._owner, self.size)
