"""Bytes that a server holds for its clients, in all and for each of them."""

from __future__ import annotations

import threading

__all__ = ["MemoryBudget", "Reservation"]


class MemoryBudget:
    """So many bytes; may be used from any thread.

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
        """Bytes that are held."""
        return self._used

    def open_reservation(self, owner: str) -> Reservation:
        """Nothing yet, in the name of a client."""
        return Reservation(self, owner)

    def reserve(self, owner: str, size: int) -> bool:
        """Hold more; False where that would be too much."""
        with self._lock:
            held = self._by_owner.get(owner, 0)
            if self._used + size > self.limit or held + size > self.per_client:
                return False
            self._used += size
            self._by_owner[owner] = held + size
            return True

    def release(self, owner: str, size: int) -> None:
        """Hold less."""
        with self._lock:
            self._used -= size
            self._by_owner[owner] -= size
            if not self._by_owner[owner]:
                del self._by_owner[owner]


class Reservation:
    """The bytes of one message, given back when nothing refers to it any more, whatever became of it."""

    __slots__ = ("_budget", "_owner", "size")

    def __init__(self, budget: MemoryBudget, owner: str) -> None:
        self._budget, self._owner, self.size = budget, owner, 0

    def grow(self, size: int) -> bool:
        """Hold more; False where that would be too much, and nothing is held for it."""
        if not self._budget.reserve(self._owner, size):
            return False
        self.size += size
        return True

    def __del__(self) -> None:
        if self.size:
            self._budget.release(self._owner, self.size)
