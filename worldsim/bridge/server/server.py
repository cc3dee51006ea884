"""Server: one engine, two sockets, three threads.

The I/O thread receives and sends, and replies to control requests; the engine's thread steps; a third encodes
JPEGs. So only requests for the engine wait for the engine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from worldsim.bridge.journal.journal import Journal
from worldsim.bridge.server.batcher import Batcher
from worldsim.bridge.server.image_encoder import ImageEncoder
from worldsim.bridge.server.io_loop import IoLoop
from worldsim.bridge.server.leases import Leases
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.quotas import Quotas
from worldsim.bridge.server.recovery import recover
from worldsim.bridge.server.request_handler import RequestHandler
from worldsim.bridge.server.requests import Request, RequestReader
from worldsim.bridge.server.server_info import check_control, server_info
from worldsim.bridge.server.session_manager import SessionManager
from worldsim.bridge.server.sessions import Sessions
from worldsim.bridge.server.sockets import Sockets
from worldsim.bridge.server.status_page import StatusPage
from worldsim.bridge.server.thread_priority import raise_priority
from worldsim.bridge.wire.protocol import REMEMBERED, ClientLimits
from worldsim.engine.engine import Engine
from worldsim.errors import BridgeError
from worldsim.kernels.library import variant
from worldsim.utils.cpu_info import cpu_info
from worldsim.utils.threads import start_worker_threads

__all__ = ["Server", "ServerOptions"]

_DRAIN_SECONDS = 2.0
"""Seconds in which the last replies are sent on shutdown."""
_STALL_SECONDS = 5.0
"""Seconds without a turn of the I/O loop after which the server counts as dead."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of a server."""

    address: str
    """Address of the data socket, ``ipc://PATH`` or ``tcp://HOST:PORT``; the port may be ``*``."""
    keys: Path | None = None
    """Folder of keys; required if other machines can reach the address."""
    journal: Path | None = None
    """Folder of the journal; without it sessions end with the process."""
    metrics_port: int | None = None
    """Port of the status page on 127.0.0.1; 0 for any."""
    lease_ttl: float = 30.0
    """Seconds that a lease lasts without being renewed."""
    limits: ClientLimits = field(default_factory=ClientLimits)
    behind_router: bool = False
    """True if a router forwards all requests; it names their keys and enforces the limits."""
    fsync: bool = False
    """True if replies wait for the disk, so that a loss of power takes nothing."""


class Server:
    """Serves from construction until ``stop``.

    Args:
        engine: without sessions; owned by the server from now on.
        options: see ``ServerOptions``.
        progress: called with the share of recovered sessions, 0..1.

    Raises:
        BridgeError: an address that is taken or needs keys, or a journal of another world.
        WorldsimError: sessions of the journal that cannot be recovered.
    """

    def __init__(
        self, engine: Engine, options: ServerOptions, *, progress: Callable[[float], None] | None = None
    ) -> None:
        self.engine, self._options = engine, options
        self.metrics, self.sessions, self._leases = ServerMetrics(), Sessions(), Leases(options.lease_ttl)
        self._capacity = engine.free
        self._journal = None if options.journal is None else _open_journal(engine, options)
        try:
            self._recover(progress)
            self.sockets = Sockets(options.address, options.keys, behind_router=options.behind_router)
        except BaseException:
            self._close_journal()
            raise
        self.address = self.sockets.address
        """Address of the data socket, with its port."""
        self.fault: BaseException | None = None
        """Exception that ended the server, if any."""
        self.ended = threading.Event()
        self._start_threads()

    def info(self) -> dict[str, Any]:
        """Return the reply to ``info``."""
        world, engine = self.engine.world, self.engine
        return {
            "world": world.name,
            "weights_sha256": world.weights_sha256,
            "device": str(world.device),
            "dtype": str(world.dtype).removeprefix("torch."),
            "params": world.params,
            "sessions": len(self.sessions),
            "offloaded": engine.scheduler.offloaded,
            "slots": engine.slots,
            "free": engine.free,
            "waiting": self._io_loop.waiting,
            "draining": self._io_loop.draining,
            **self.metrics.summary(),
        }

    def drain(self) -> None:
        """Answer new requests with ``DRAINING`` from now on."""
        self._io_loop.draining = True

    def stop(self) -> None:
        """Drain, answer queued requests, and end. Stopping twice is fine."""
        self.drain()
        self._batcher.stop()
        for thread in self._threads:
            thread.join()
        if self._status_page is not None:
            self._status_page.close()
        self._close_journal()

    @property
    def metrics_port(self) -> int | None:
        """Port of the status page; None if there is none."""
        return None if self._status_page is None else self._status_page.port

    @property
    def alive(self) -> bool:
        """True if both threads run."""
        return self.fault is None and time.monotonic() - self._io_loop.last_turn < _STALL_SECONDS

    @property
    def ready(self) -> bool:
        """True if requests are accepted."""
        return self.alive and not self._io_loop.draining and not self.ended.is_set()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _recover(self, progress: Callable[[float], None] | None) -> None:
        if self._journal is None:
            return
        recover(self.engine, self._journal, self.sessions, progress=progress)
        now = time.monotonic()  # a long replay must not use up the time that leases have
        for record in self._journal.leases.values():
            self._leases.recover(record, now)

    def _start_threads(self) -> None:
        limits = self._options.limits
        self._image_encoder = ImageEncoder(self._deliver)
        manager = SessionManager(
            self.engine, self.sessions, self._journal, max_sessions=self._capacity, per_lease=limits.sessions
        )
        self._batcher = Batcher(manager, self.metrics, self._image_encoder.put, batch=self.engine.slots)
        behind_router = self._options.behind_router
        self._io_loop = IoLoop(
            self.sockets, limits, self.metrics, drain_seconds=_DRAIN_SECONDS, behind_router=behind_router
        )
        self._handler = self._request_handler(self._io_loop)
        self._add_gauges()
        self._status_page = None
        if self._options.metrics_port is not None:
            self._status_page = StatusPage(
                self._options.metrics_port, self.metrics.render, lambda: self.alive, lambda: self.ready
            )
        self._threads = [
            threading.Thread(target=work, name=f"worldsim-{name}", daemon=True)
            for name, work in (("engine", self._run_engine), ("sockets", self._run_io_loop))
        ]
        for thread in self._threads:
            thread.start()

    def _request_handler(self, loop: IoLoop) -> RequestHandler:
        limits, options, capacity = self._options.limits, self._options, self._capacity
        authenticated = options.keys is not None
        return RequestHandler(
            loop,
            self._batcher,
            self.sessions,
            self._leases,
            self._journal,
            RequestReader(
                lambda control: check_control(self.engine, control),
                limits,
                (self.engine.given_frames, *self.engine.world.spec.size, 3),
                unit_frames=self.engine.world.unit_frames,
                behind_router=options.behind_router,
            ),
            self.metrics,
            quotas=Quotas(
                self._leases, self.sessions, capacity, limits.sessions, authenticated=authenticated
            ),
            server_info=server_info(self.engine, limits),
            info=self.info,
            capacity=capacity,
            behind_router=options.behind_router,
        )

    def _add_gauges(self) -> None:
        metrics, engine = self.metrics, self.engine
        metrics.add_gauge("sessions", "Sessions that are open.", lambda: len(self.sessions))
        metrics.add_gauge(
            "offloaded_sessions", "Sessions without a slot.", lambda: engine.scheduler.offloaded
        )
        metrics.add_gauge("slots", "Slots of the engine.", lambda: engine.slots)
        metrics.add_gauge("leases", "Leases that are alive.", lambda: len(self._leases))
        metrics.add_gauge("waiting_requests", "Requests on their way.", lambda: self._io_loop.waiting)
        metrics.add_gauge(
            "memory_bytes", "Of the engine's slots.", lambda: float(engine.slots * engine.session_bytes)
        )

    def _deliver(self, requests: list[Request]) -> None:
        self._handler.deliver(requests)

    def _run_engine(self) -> None:
        """Thread of the engine.

        While it holds the interpreter the I/O thread waits for it, and for as long as other programs keep it
        from a core: so its priority is the same. The threads that only compute keep theirs.
        """
        start_worker_threads()
        raise_priority()
        try:
            self._batcher.run()
        except BaseException as error:
            self._fail(error)
        finally:
            self._image_encoder.close()
            self._io_loop.stop()

    def _run_io_loop(self) -> None:
        """Thread of the sockets."""
        raise_priority()
        try:
            self._io_loop.run(self._handler)
        except BaseException as error:
            self._fail(error)
        finally:
            self._batcher.stop()
            self.ended.set()

    def _fail(self, error: BaseException) -> None:
        """End both threads after an exception in either."""
        logging.getLogger("worldsim").critical("the server has to end", exc_info=error)
        self.fault = self.fault or error

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()


def _open_journal(engine: Engine, options: ServerOptions) -> Journal:
    assert options.journal is not None, "asked for"
    world = engine.world
    meta = {
        "weights_sha256": world.weights_sha256,
        "denoising_steps": engine.denoising_steps,
        "context": engine.context,
        "device": world.device.type,
        "dtype": str(world.dtype).removeprefix("torch."),
        **_numeric_environment(),
    }
    try:
        return Journal(
            options.journal, meta, rewind_frames=engine.rewind_frames, replies=REMEMBERED, fsync=options.fsync
        )
    except OSError as error:
        rule = "a journal's folder must be one that can be written"
        raise BridgeError(rule, f"{options.journal}: {error}", "name another with --journal") from error


def _numeric_environment() -> dict[str, str]:
    """Numeric environment that the bits of a frame depend on; replays must repeat acknowledged replies."""
    return {
        "torch": torch.__version__,
        "kernels": variant() or "none",
        "processor": f"{cpu_info().vendor} {torch.backends.cpu.get_cpu_capability()}".strip(),
    }
