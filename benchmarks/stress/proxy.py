"""A TCP proxy that drops connections, delays what passes, or lets one direction fall silent."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field

__all__ = ["Proxy"]


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    inwards: bool
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)


class Proxy:
    """TCP proxy to a port of this machine.

    Args:
        port: of the server.
        listen: own port; 0 for any.
    """

    def __init__(self, port: int, listen: int = 0) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0
        """Delay in seconds, in both directions."""
        self.deaf = self.mute = False
        """True while data of clients, or replies of the server, are dropped on open connections."""
        self._pipes: list[_Pipe] = []
        self._drop, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def drop(self) -> None:
        """Close all connections."""
        self._drop.set()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._end.is_set():
                for key, _ in selector.select(0.002):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    else:
                        self._take(selector, key.data)
                self._deliver(selector)
                if self._drop.is_set():
                    self._drop.clear()
                    self._truncated(selector, list(self._pipes))
            self._truncated(selector, list(self._pipes))
        self._listener.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._target, 2)
        except OSError:
            client.close()
            return
        for source, sink, inwards in ((client, server, True), (server, client, False)):
            pipe = _Pipe(source, sink, inwards)
            self._pipes.append(pipe)
            selector.register(source, selectors.EVENT_READ, pipe)

    def _take(self, selector: selectors.BaseSelector, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(2**18)
        except OSError:
            data = b""
        if not data:
            self._truncated(selector, [pipe])
        elif not (self.deaf if pipe.inwards else self.mute):
            pipe.waiting.append((time.monotonic() + self.delay, data))

    def _deliver(self, selector: selectors.BaseSelector) -> None:
        for pipe in list(self._pipes):
            while pipe.waiting and pipe.waiting[0][0] <= time.monotonic():
                try:
                    pipe.sink.sendall(pipe.waiting.popleft()[1])
                except OSError:
                    self._truncated(selector, [pipe])
                    break

    def _truncated(self, selector: selectors.BaseSelector, pipes: list[_Pipe]) -> None:
        gone = {end for pipe in pipes for end in (pipe.source, pipe.sink)}
        self._pipes = [pipe for pipe in self._pipes if pipe.source not in gone]
        for end in gone:
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(end)
            end.close()
