"""Sends to clients without ever waiting for one."""

from __future__ import annotations

from typing import Any

from worldsim.bridge.peers import Peer
from worldsim.bridge.sockets import Sockets

__all__ = ["Post"]


class Post:
    """What a client's socket has no room for waits in its outbox. Used by one thread.

    Args:
        sockets: to send through.
        most: messages of one outbox; what would be more is dropped, and asked for again by the client.
    """

    def __init__(self, sockets: Sockets, most: int) -> None:
        self._sockets, self._most = sockets, most
        self._full: set[Peer] = set()

    @property
    def waiting(self) -> bool:
        """Whether there is anything in an outbox."""
        return bool(self._full)

    def send(self, peer: Peer, parts: list[Any]) -> None:
        """Now, or when there is room."""
        if not peer.outbox and self._sockets.send(peer.identity, parts, control=peer.control):
            return
        if len(peer.outbox) < self._most:
            peer.outbox.append(parts)
            self._full.add(peer)

    def flush(self) -> None:
        """Send what there is room for by now."""
        for peer in list(self._full):
            while peer.outbox and self._sockets.send(peer.identity, peer.outbox[0], control=peer.control):
                peer.outbox.popleft()
            if not peer.outbox:
                self._full.discard(peer)
