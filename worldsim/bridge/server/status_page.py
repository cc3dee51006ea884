"""``/metrics``, ``/livez`` and ``/readyz`` over HTTP, on loopback only."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from worldsim.errors import BridgeError

__all__ = ["StatusPage"]


_MAX_REQUESTS = 16
"""Requests at a time."""


class _HttpServer(ThreadingHTTPServer):
    """HTTP server with few threads; a new request replaces the oldest one beyond the limit."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.in_flight: dict[socket.socket, None] = {}
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self.in_flight) >= _MAX_REQUESTS:
                oldest = next(iter(self.in_flight))
                del self.in_flight[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self.in_flight[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self.in_flight.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: Any) -> None:
        """Ignore errors of clients that have gone."""


class StatusPage:
    """HTTP status page, served until it is closed.

    Args:
        port: of 127.0.0.1; 0 for any that is free.
        metrics: the page for Prometheus.
        alive: whether the threads do their work.
        ready: whether requests are taken.

    Raises:
        BridgeError: the port is taken.
    """

    def __init__(
        self, port: int, metrics: Callable[[], bytes], alive: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        pages = {"/metrics": lambda: (200, metrics()), "/livez": _probe(alive), "/readyz": _probe(ready)}

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                status, body = pages.get(self.path, lambda: (404, b"no such page\n"))()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        try:
            self._server = _HttpServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise BridgeError("the status page's port must be free", port, str(error)) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="worldsim-status",
            daemon=True,
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Port of the page."""
        return int(self._server.server_address[1])

    @property
    def busy(self) -> int:
        """Number of unanswered requests."""
        return len(self._server.in_flight)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _probe(good: Callable[[], bool]) -> Callable[[], tuple[int, bytes]]:
    return lambda: (200, b"ok\n") if good() else (503, b"no\n")
