"""A server: one engine, two sockets, three threads.

The sockets' thread reads, answers what it can, and sends; the engine's thread dreams; a third encodes images.
So nobody waits for the engine but those who want something of it.
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

from worldsim.bridge.batcher import Batcher
from worldsim.bridge.desk import Desk
from worldsim.bridge.facts import check_control, facts_of
from worldsim.bridge.haste import hasten
from worldsim.bridge.journal import Journal
from worldsim.bridge.keeper import Keeper
from worldsim.bridge.leases import Leases
from worldsim.bridge.metrics import Meter
from worldsim.bridge.pictures import Pictures
from worldsim.bridge.protocol import REMEMBERED, Limits
from worldsim.bridge.recovery import recover
from worldsim.bridge.requests import Reader, Request
from worldsim.bridge.sessions import Sessions
from worldsim.bridge.sockets import Sockets
from worldsim.bridge.status import StatusPage
from worldsim.engine.engine import Engine
from worldsim.errors import BridgeError
from worldsim.kernels.library import variant
from worldsim.processor import processor

__all__ = ["Options", "Server"]

_STUCK = 5.0
"""Seconds without a turn of the sockets' thread after which it is not alive."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to serve."""

    address: str
    """Of the data socket, ``ipc://PATH`` or ``tcp://HOST:PORT``; the port may be ``*``."""
    keys: Path | None = None
    """Folder of keys; needed where other machines can reach the address."""
    state: Path | None = None
    """Folder of the journal; without it nothing outlives the process."""
    metrics_port: int | None = None
    """Port of the status page on 127.0.0.1; 0 for any."""
    ttl: float = 30.0
    """Seconds that a lease lasts without a sign of life."""
    limits: Limits = field(default_factory=Limits)
    front: bool = False
    """Whether all requests come through a front, which says whose each is and bounds what clients ask."""
    durable: bool = False
    """Whether answers wait for the disk itself, so that a loss of power takes nothing either."""


class Server:
    """Serves from its making to ``stop``.

    Args:
        engine: empty; used by nobody else from now on.
        options: how.
        progress: told the share of earlier sessions that have been made again, 0..1.

    Raises:
        BridgeError: an address that is taken or needs keys, or a journal of another world.
        WorldsimError: sessions of the journal that cannot be made again.
    """

    def __init__(
        self, engine: Engine, options: Options, *, progress: Callable[[float], None] | None = None
    ) -> None:
        self.engine, self._options = engine, options
        self.meter, self.sessions, self._leases = Meter(), Sessions(), Leases(options.ttl)
        self._room = engine.free
        self._journal = None if options.state is None else _journal(engine, options)
        try:
            self._remember(progress)
            self.sockets = Sockets(options.address, options.keys, front=options.front)
        except BaseException:
            self._close_journal()
            raise
        self.address = self.sockets.address
        """Of the data socket, with its port."""
        self.fault: BaseException | None = None
        """What ended the server, if anything did."""
        self.ended = threading.Event()
        self._begin()

    def info(self) -> dict[str, Any]:
        """What ``info`` answers."""
        world, engine = self.engine.world, self.engine
        return {
            "world": world.name,
            "digest": world.digest,
            "device": str(world.device),
            "dtype": str(world.dtype).removeprefix("torch."),
            "params": world.params,
            "sessions": len(self.sessions),
            "parked": engine.scheduler.parked,
            "slots": engine.slots,
            "free": engine.free,
            "waiting": self._desk.waiting,
            "draining": self._desk.draining,
            **self.meter.summary(),
        }

    def refuse(self) -> None:
        """From now on answer new requests ``DRAINING``."""
        self._desk.draining = True

    def stop(self) -> None:
        """Refuse what is new, do what was asked for, answer it, and end. Stopping twice is fine."""
        self.refuse()
        self._batcher.stop()
        for thread in self._threads:
            thread.join()
        if self._page is not None:
            self._page.close()
        self._close_journal()

    @property
    def metrics_port(self) -> int | None:
        """Where the status page is; None if there is none."""
        return None if self._page is None else self._page.port

    @property
    def alive(self) -> bool:
        """Whether both threads do their work."""
        return self.fault is None and time.monotonic() - self._desk.turned < _STUCK

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.alive and not self._desk.draining and not self.ended.is_set()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _remember(self, progress: Callable[[float], None] | None) -> None:
        if self._journal is None:
            return
        recover(self.engine, self._journal, self.sessions, progress=progress)
        now = time.monotonic()  # a long replay must not use up the time that leases have
        for record in self._journal.leases.values():
            self._leases.recover(record, now)

    def _begin(self) -> None:
        limits = self._options.limits
        self._pictures = Pictures(self._deliver)
        keeper = Keeper(self.engine, self.sessions, self._journal, most=self._room, per_lease=limits.sessions)
        self._batcher = Batcher(keeper, self.meter, self._pictures.put, batch=self.engine.slots)
        self._desk = Desk(
            self.sockets,
            self._batcher,
            self.sessions,
            self._leases,
            self._journal,
            Reader(
                lambda control: check_control(self.engine, control),
                limits,
                (self.engine.context, *self.engine.world.spec.size, 3),
                front=self._options.front,
            ),
            limits,
            self.meter,
            hello=facts_of(self.engine, limits),
            info=self.info,
            room=self._room,
            keyed=self._options.keys is not None,
            front=self._options.front,
        )
        self._watch()
        self._page = None
        if self._options.metrics_port is not None:
            self._page = StatusPage(
                self._options.metrics_port, self.meter.page, lambda: self.alive, lambda: self.ready
            )
        self._threads = [
            threading.Thread(target=work, name=f"worldsim-{name}", daemon=True)
            for name, work in (("engine", self._dream), ("sockets", self._serve))
        ]
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        meter, engine = self.meter, self.engine
        meter.watch("sessions", "Sessions that are open.", lambda: len(self.sessions))
        meter.watch("parked", "Sessions without a slot.", lambda: engine.scheduler.parked)
        meter.watch("slots", "Slots of the engine.", lambda: engine.slots)
        meter.watch("leases", "Leases that are alive.", lambda: len(self._leases))
        meter.watch("waiting", "Requests on their way.", lambda: self._desk.waiting)
        meter.watch(
            "memory_bytes", "Of the engine's slots.", lambda: float(engine.slots * engine.session_bytes)
        )

    def _deliver(self, requests: list[Request]) -> None:
        self._desk.done(requests)

    def _dream(self) -> None:
        """The engine's thread."""
        try:
            self._batcher.run()
        except BaseException as error:
            self._fail(error)
        finally:
            self._pictures.close()
            self._desk.stop()

    def _serve(self) -> None:
        """The sockets' thread."""
        hasten()
        try:
            self._desk.run()
        except BaseException as error:
            self._fail(error)
        finally:
            self._batcher.stop()
            self.ended.set()

    def _fail(self, error: BaseException) -> None:
        """A fault of either thread ends both."""
        logging.getLogger("worldsim").critical("the server has to end", exc_info=error)
        self.fault = self.fault or error

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()


def _journal(engine: Engine, options: Options) -> Journal:
    assert options.state is not None, "asked for"
    world = engine.world
    meta = {
        "digest": world.digest,
        "steps": engine.steps,
        "context": engine.context,
        "device": world.device.type,
        "dtype": str(world.dtype).removeprefix("torch."),
        **_arithmetic(),
    }
    try:
        return Journal(
            options.state, meta, history=engine.history, replies=REMEMBERED, durable=options.durable
        )
    except OSError as error:
        rule = "a state folder must be one that can be written"
        raise BridgeError(rule, f"{options.state}: {error}", "name another with --state") from error


def _arithmetic() -> dict[str, str]:
    """What else the bits of a frame may depend on: replies made again must be those acknowledged."""
    return {
        "torch": torch.__version__,
        "kernels": variant() or "none",
        "processor": f"{processor().vendor} {torch.backends.cpu.get_cpu_capability()}".strip(),
    }
