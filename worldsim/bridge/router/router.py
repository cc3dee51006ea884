"""Router: one address for several engines.

A session lives on one engine; the router knows which, and forwards requests and replies. All engines know all
leases and have them in their journals. So the router has no state of its own to lose: after a restart it asks
its engines for their sessions.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from worldsim.bridge.router.engine_pool import EnginePool
from worldsim.bridge.router.forwarder import Forwarder
from worldsim.bridge.server.io_loop import IoLoop
from worldsim.bridge.server.leases import Leases
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.sockets import Sockets
from worldsim.bridge.wire.protocol import ClientLimits
from worldsim.errors import BridgeError

__all__ = ["Router"]

_DRAIN_SECONDS = 30.0
"""Seconds in which engines may still reply on shutdown."""


class Router:
    """Serves clients from construction until it is stopped.

    Args:
        address: of the data socket.
        command_lines: of each engine's command line, after ``worldsim``.
        keys: folder of keys, or None.
        journal: folder of the engines' journals, or None.
        lease_ttl: seconds that a lease lasts without a sign of life.
        limits: of one client.

    Raises:
        BridgeError: an address that is taken or needs keys.
    """

    def __init__(
        self,
        address: str,
        command_lines: Sequence[Sequence[str]],
        *,
        keys: Path | None = None,
        journal: Path | None = None,
        lease_ttl: float = 30.0,
        limits: ClientLimits | None = None,
    ) -> None:
        limits, self.metrics = limits or ClientLimits(), ServerMetrics()
        self.sockets, self._leases = Sockets(address, keys), Leases(lease_ttl)
        self.address = self.sockets.address
        """Address of the data socket, with its port."""
        self.pool = EnginePool(command_lines, journal, self.sockets)
        self._io_loop = IoLoop(self.sockets, limits, self.metrics, drain_seconds=_DRAIN_SECONDS)
        self._forwarder = Forwarder(self._io_loop, self.pool, self._leases, limits, self.metrics)
        self.ended = threading.Event()
        self.fault: BaseException | None = None
        """Exception that ended the router, if any."""
        self._thread = threading.Thread(target=self._serve, name="worldsim-router", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True if its thread runs."""
        return self.fault is None and not self.ended.is_set()

    @property
    def ready(self) -> bool:
        """True if requests are accepted."""
        return self.alive and not self._io_loop.draining and bool(self.pool.ready)

    def add_gauges(self) -> None:
        """Add what there is to see to the metrics."""
        self.metrics.add_gauge("sessions", "Sessions that are open.", lambda: len(self.pool.placements))
        self.metrics.add_gauge("replicas", "Engines that are ready.", lambda: len(self.pool.ready))
        self.metrics.add_gauge("leases", "Leases that are alive.", lambda: len(self._leases))
        self.metrics.add_gauge("waiting_requests", "Requests on their way.", lambda: self._io_loop.waiting)

    def await_replicas(self, stop_requested: threading.Event) -> None:
        """Block until all engines are ready, or a stop is requested.

        Raises:
            BridgeError: none of them starts.
        """
        while not (stop_requested.wait(0.1) or self.ended.is_set() or self.pool.complete):
            if self.pool.hopeless:
                raise BridgeError("replicas must start", None, "see their errors above")

    def stop(self) -> None:
        """Drain, answer pending requests, and end the engines. Stopping twice is fine."""
        self._io_loop.draining = True
        self._io_loop.stop()
        self._thread.join()

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self) -> None:
        try:
            self._io_loop.run(self._forwarder)
        except BaseException as error:
            logging.getLogger("worldsim").critical("the router has to end", exc_info=error)
            self.fault = error
        finally:
            self.pool.close()
            self.ended.set()
