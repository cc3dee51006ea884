"""Bytes that a server holds for its clients, in all and for each of them."""

from __future__ import annotations

import threading

__all__ = ["Charge", "Pool"]


class Pool:
    """So many bytes; may be used from any thread.

    Args:
        most: bytes in all.
        each: of which one client may hold so many.
    """

    def __init__(self, most: int, each: int) -> None:
        self.most, self.each = most, each
        self._held: dict[str, int] = {}
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are held."""
        return self._used

    def charge(self, owner: str) -> Charge:
        """Nothing yet, in the name of a client."""
        return Charge(self, owner)

    def take(self, owner: str, size: int) -> bool:
        """Hold more; False where that would be too much."""
        with self._lock:
            held = self._held.get(owner, 0)
            if self._used + size > self.most or held + size > self.each:
                return False
            self._used += size
            self._held[owner] = held + size
            return True

    def give(self, owner: str, size: int) -> None:
        """Hold less."""
        with self._lock:
            self._used -= size
            self._held[owner] -= size
            if not self._held[owner]:
                del self._held[owner]


class Charge:
    """The bytes of one message, given back when nothing refers to it any more, whatever became of it."""

    __slots__ = ("_owner", "_pool", "size")

    def __init__(self, pool: Pool, owner: str) -> None:
        self._pool, self._owner, self.size = pool, owner, 0

    def grow(self, size: int) -> bool:
        """Hold more; False where that would be too much, and nothing is held for it."""
        if not self._pool.take(self._owner, size):
            return False
        self.size += size
        return True

    def __del__(self) -> None:
        if self.size:
            self._pool.give(self._owner, self.size)
