"""The engines behind a front: kept running, greeted, and their sessions moved when one ends."""

from __future__ import annotations

import itertools
import logging
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from worldsim.bridge.router.engine_process import EngineProcess
from worldsim.bridge.server.leases import Lease
from worldsim.bridge.server.sockets import Sockets
from worldsim.bridge.wire.protocol import Message

__all__ = ["EnginePool", "Placement"]

ReplyHandler = Callable[[Message | None], None]
"""What is done with a reply; None where the engine ended before it came."""


@dataclass(slots=True)
class Placement:
    """Where a session is, and whose it is."""

    engine: EngineProcess
    lease: str
    seq: int = 0
    """The last one known; of two engines that claim a session the one that is further has it."""


class EnginePool:
    """Used by one thread.

    Args:
        command_lines: of an engine's command line, by engine.
        journal: folder of the journals, or None: the sessions of an engine that ends are lost.
        sockets: the front's, which wait for the engines' replies, too.
    """

    def __init__(
        self, command_lines: Sequence[Sequence[str]], journal: Path | None, sockets: Sockets
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="worldsim-")
        self._context: zmq.Context[Any] = zmq.Context()
        self._sockets = sockets
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[EngineProcess, ReplyHandler]] = {}
        self._own_lease = Lease(secrets.token_hex(16), "", "router", 0.0)
        self.placements: dict[str, Placement] = {}
        folder = Path(self._folder.name)
        self.engines = [
            EngineProcess(number, line, folder, journal and journal / f"replica-{number}", self._context)
            for number, line in enumerate(command_lines)
        ]
        for engine in self.engines:
            self._watch(engine)

    @property
    def ready(self) -> list[EngineProcess]:
        """Engines that take requests."""
        return [engine for engine in self.engines if engine.ready]

    @property
    def complete(self) -> bool:
        """Whether no engine is starting or moving: all sessions that there are can be named."""
        return bool(self.ready) and all(engine.ready or engine.given_up for engine in self.engines)

    @property
    def waiting(self) -> int:
        """Requests that wait for replies."""
        return len(self._pending)

    def least_loaded(self) -> EngineProcess | None:
        """Where one more session does least harm; None while no engine is ready."""
        used = dict.fromkeys(self.ready, 0)
        for placement in self.placements.values():
            if placement.engine in used:
                used[placement.engine] += 1
        return min(used, key=lambda engine: (used[engine], engine.number), default=None)

    def request(
        self,
        engine: EngineProcess,
        header: Mapping[str, Any],
        payloads: Sequence[Any] = (),
        *,
        key: str,
        on_reply: ReplyHandler,
        control: bool = False,
    ) -> None:
        """Send a request to an engine on behalf of the client with ``key``."""
        number = next(self._ids)
        engine.send({**header, "id": number, "key": key}, payloads, control=control)
        self._pending[number] = (engine, on_reply)

    def hello(self, engine: EngineProcess, lease: Lease, on_reply: ReplyHandler) -> None:
        """Make a lease known to an engine."""
        header = {"op": "hello", "client": lease.client, "lease": lease.token}
        self.request(engine, header, key=lease.key, on_reply=on_reply, control=True)

    def record_sessions(self, sessions: Mapping[str, int], engine: EngineProcess, lease: str) -> None:
        """An engine says that it has sessions of a lease, each with its last seq."""
        for name, seq in sessions.items():
            placement = self.placements.get(name)
            if (
                placement is None
                or placement.engine is engine
                or not placement.engine.ready
                or placement.seq < seq
            ):
                self.placements[name] = Placement(engine, lease, seq)

    def receive(self) -> None:
        """Hand replies that have come to those who asked."""
        for engine in self.engines:
            for reply in engine.receive():
                pending = self._pending.pop(reply.header["id"], None)
                if pending is not None:
                    pending[1](reply)

    def maintain(
        self,
        now: float,
        leases: Callable[[], Iterator[Lease]],
        take_in_leases: Callable[[bytes], list[Lease]],
    ) -> None:
        """Start what has to be started, and take note of what has ended.

        Args:
            now: on the monotonic clock, in seconds.
            leases: those that are alive.
            take_in_leases: takes in the leases that an engine has, and returns those that were not known.
        """
        for engine in self.engines:
            if engine.take_exit(now):
                logging.getLogger("worldsim").warning("engine %d has ended", engine.number)
                self._handle_exit(engine)
            if engine.restart_due(now):
                engine.start()
                self._load_leases(engine, leases, take_in_leases)

    def send_heartbeats(self, leases: Iterator[Lease]) -> None:
        """Keep leases alive on all engines."""
        for lease in [self._own_lease, *leases]:
            for engine in self.ready:
                header = {"op": "heartbeat", "id": 0, "lease": lease.token, "key": lease.key}
                engine.send(header, control=True)

    def close(self) -> None:
        """End all engines."""
        for engine in self.engines:
            engine.stop()
        for engine in self.engines:
            engine.close()
        self._context.term()
        self._folder.cleanup()

    def _watch(self, engine: EngineProcess) -> None:
        for socket in (engine.data, engine.control):
            self._sockets.watch(socket)

    def _load_leases(
        self,
        engine: EngineProcess,
        leases: Callable[[], Iterator[Lease]],
        take_in_leases: Callable[[bytes], list[Lease]],
    ) -> None:
        """Have an engine say which leases it has written down: a front that was ended has forgotten them."""

        def told(reply: Message | None) -> None:
            if reply is None:
                return
            for lease in take_in_leases(reply.payloads[0]):
                for other in self.ready:
                    self.hello(other, lease, lambda reply, to=other, of=lease: self._seat(reply, to, of))  # type: ignore[misc]
            self._register_leases(engine, [self._own_lease, *leases()])

        self.request(engine, {"op": "leases"}, key="", on_reply=told, control=True)

    def _seat(self, reply: Message | None, engine: EngineProcess, lease: Lease) -> None:
        if reply is not None:
            self.record_sessions(reply.header.get("sessions", {}), engine, lease.token)

    def _register_leases(self, engine: EngineProcess, leases: Sequence[Lease]) -> None:
        """An engine is ready when it knows all leases."""
        left, claimed = len(leases), set[str]()

        def known(lease: Lease, reply: Message | None) -> None:
            nonlocal left
            if reply is None:
                return
            sessions = reply.header.get("sessions", {})
            self.record_sessions(sessions, engine, lease.token)
            claimed.update(sessions)
            left -= 1
            if not left:
                self.placements = {
                    name: placement
                    for name, placement in self.placements.items()
                    if placement.engine is not engine or name in claimed
                }
                engine.mark_ready(reply.header)

        for lease in leases:
            self.hello(engine, lease, lambda reply, lease=lease: known(lease, reply))  # type: ignore[misc]

    def _handle_exit(self, engine: EngineProcess) -> None:
        """An engine has ended: whoever asked it has to ask again, and its sessions move."""
        pending = [(number, on_reply) for number, (to, on_reply) in self._pending.items() if to is engine]
        for number, _ in pending:
            del self._pending[number]
        for old in engine.reconnect(self._context):
            self._sockets.forget(old)
            old.close(0)
        self._watch(engine)
        sessions = [name for name, placement in self.placements.items() if placement.engine is engine]
        failover_target = self.least_loaded()
        if engine.journal is None:
            for name in sessions:
                del self.placements[name]
        elif failover_target is not None and sessions:
            self._fail_over(engine, failover_target)
        for _, on_reply in pending:
            on_reply(None)

    def _fail_over(self, engine: EngineProcess, failover_target: EngineProcess) -> None:
        """Have one engine take over all sessions of another. Where it cannot, they wait for their own."""
        engine.failing_over = True

        def moved(reply: Message | None) -> None:
            engine.failing_over = False
            if reply is not None and reply.header["ok"]:
                for placement in self.placements.values():
                    if placement.engine is engine:
                        placement.engine = failover_target
                logging.getLogger("worldsim").warning(
                    "engine %d took over its sessions", failover_target.number
                )

        header = {"op": "take_over", "lease": self._own_lease.token, "session": secrets.token_hex(16)}
        self.request(failover_target, {**header, "folder": str(engine.journal)}, key="", on_reply=moved)
