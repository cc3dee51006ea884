"""``/metrics``, ``/livez`` and ``/readyz`` over HTTP, on loopback only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from worldsim.errors import BridgeError

__all__ = ["StatusPage"]


class StatusPage:
    """Serves until it is closed.

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
        pages = {"/metrics": lambda: (200, metrics()), "/livez": _light(alive), "/readyz": _light(ready)}

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
                """Quiet."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise BridgeError("the status page's port must be free", port, str(error)) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="worldsim-status",
            daemon=True,
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it is."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _light(good: Callable[[], bool]) -> Callable[[], tuple[int, bytes]]:
    return lambda: (200, b"ok\n") if good() else (503, b"no\n")
