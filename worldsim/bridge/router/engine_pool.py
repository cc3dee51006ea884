"""Engine pool of a router: restarts engines, places sessions, and fails over."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from worldsim.bridge.router.engine_process import EngineProcess
from worldsim.bridge.router.scatter_gather import unavailable
from worldsim.bridge.server.leases import Lease
from worldsim.bridge.server.sockets import Sockets
from worldsim.bridge.wire.header_fields import is_token
from worldsim.bridge.wire.protocol import Code, Message
from worldsim.errors import BridgeError
from worldsim.utils.scratch_folder import ScratchFolder

__all__ = ["CREATING_OPS", "EnginePool", "Placement"]

CREATING_OPS = ("open", "restore")
"""Operations that create a session under a new name."""

ReplyHandler = Callable[[Message | None], None]
"""Callback for a reply; None if the engine ended before it replied."""


@dataclass(slots=True)
class Placement:
    """Placement of a session: its engine and lease."""

    engine: EngineProcess
    lease: str
    seq: int = 0
    """Last known ``seq``; of two engines that claim a session, the one with the higher wins."""


class EnginePool:
    """Engines, pending requests and placements. Used by one thread.

    Args:
        command_lines: of an engine's command line, by engine.
        journal: folder of the journals, or None: the sessions of an engine that ends are lost.
        sockets: the router's, which also poll the engines' replies.
    """

    def __init__(
        self, command_lines: Sequence[Sequence[str]], journal: Path | None, sockets: Sockets
    ) -> None:
        self._folder = ScratchFolder("router")
        self._context: zmq.Context[Any] = zmq.Context()
        self._sockets = sockets
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[EngineProcess, ReplyHandler]] = {}
        self._own_lease = Lease(secrets.token_hex(16), "", "router", 0.0)
        self.placements: dict[str, Placement] = {}
        folder = self._folder.path
        self.engines = [
            EngineProcess(number, line, folder, journal and journal / f"replica-{number}", self._context)
            for number, line in enumerate(command_lines)
        ]
        for engine in self.engines:
            self._watch(engine)

    @property
    def ready(self) -> list[EngineProcess]:
        """Engines that accept requests."""
        return [engine for engine in self.engines if engine.ready]

    @property
    def complete(self) -> bool:
        """True if no engine is starting or failing over: all sessions are known."""
        return bool(self.ready) and all(engine.ready or engine.given_up for engine in self.engines)

    @property
    def hopeless(self) -> bool:
        """True if every engine failed to start too often."""
        return all(engine.given_up for engine in self.engines)

    @property
    def waiting(self) -> int:
        """Number of pending requests."""
        return len(self._pending)

    def least_loaded(self) -> EngineProcess | None:
        """Return the engine with the fewest sessions; None while none is ready."""
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
        """Record sessions of a lease that an engine listed, each with its last seq."""
        for name, seq in sessions.items():
            placement = self.placements.get(name)
            if (
                placement is None
                or placement.engine is engine
                or not placement.engine.ready
                or placement.seq < seq
            ):
                self.placements[name] = Placement(engine, lease, seq)

    def engine_of(self, name: str) -> EngineProcess | None:
        """Return the engine that a session lives on, None for an unknown session."""
        placement = self.placements.get(name)
        return None if placement is None else placement.engine

    def place(self, name: str, lease: Lease) -> EngineProcess | None:
        """Choose an engine for a new session; None while one is down, which may have the session already."""
        engine = self.least_loaded() if self.complete else None
        if engine is not None and is_token(name):
            self.placements[name] = Placement(engine, lease.token)
        return engine

    def check_children(self, children: object, engine: EngineProcess, lease: Lease) -> None:
        """Check that the names of a fork's children are free, or the lease's own on the same engine.

        An engine knows its own sessions alone.

        Raises:
            BridgeError: one is another lease's, or lives on another engine.
        """
        for child in children if isinstance(children, list) else ():
            placed = self.placements.get(child) if isinstance(child, str) else None
            if placed is not None and (placed.engine is not engine or placed.lease != lease.token):
                raise BridgeError("a fork's children must all be new", child, "choose names at random")

    def not_found(self, name: str) -> BridgeError:
        """Error for a session without a running engine: it may come back, or it is unknown."""
        if name in self.placements or not self.complete:
            return unavailable("a session's engine must be ready", 500)
        return BridgeError("a session must be open", name[:40], "open it", code=Code.UNKNOWN_SESSION)

    def forget_lease(self, lease: Lease) -> None:
        """Drop the placements of a lease that has expired."""
        self.placements = {
            name: placement for name, placement in self.placements.items() if placement.lease != lease.token
        }

    def record_reply(
        self,
        header: Mapping[str, Any],
        lease: Lease,
        engine: EngineProcess,
        reply: Message | None,
        is_new: bool = False,
    ) -> None:
        """Update the placements by an engine's reply to the request with ``header``.

        ``is_new``: the request placed its session, which is forgotten whatever the engine's refusal.
        """
        if reply is None:
            return
        op, ok, name = header["op"], reply.header["ok"], header.get("session")
        placement = self.placements.get(name) if isinstance(name, str) else None
        if ok and op == "fork":
            for child in header["children"]:
                self.placements.setdefault(child, Placement(engine, lease.token))
        elif ok and op in CREATING_OPS:  # a refused request of the same name may have taken it away
            self.placements.setdefault(str(name), Placement(engine, lease.token))
        elif ok and op == "close":
            self.placements.pop(str(name), None)
        elif ok and placement is not None and op in ("step", "rewind", "observe"):
            placement.seq = reply.header["step"]["seq"]
        elif ok and placement is not None and op == "step_chunk":
            taken = [item["step"]["seq"] for item in reply.header["items"] if "step" in item]
            placement.seq = max([placement.seq, *taken])
        elif not ok and placement is not None and placement.lease == lease.token and placement.seq == 0:
            code = reply.header["error"]["code"]
            kept = () if is_new else (Code.BAD_REQUEST, Code.OUT_OF_ORDER)
            refused = op in CREATING_OPS and code not in kept
            if refused or code == Code.UNKNOWN_SESSION:
                del self.placements[str(name)]

    def receive(self) -> None:
        """Pass received replies to their callbacks; the fault of one is logged, and touches no other."""
        for engine in self.engines:
            for reply in engine.receive():
                pending = self._pending.pop(reply.header["id"], None)
                if pending is None:
                    continue
                try:
                    pending[1](reply)
                except Exception:
                    logging.getLogger("worldsim").exception("an engine's reply could not be passed on")

    def maintain(
        self,
        now: float,
        leases: Callable[[], Iterator[Lease]],
        take_in_leases: Callable[[bytes], list[Lease]],
    ) -> None:
        """Start engines that are due, and handle those that have ended.

        Args:
            now: on the monotonic clock, in seconds.
            leases: those that are alive.
            take_in_leases: takes in the leases that an engine has, and returns those that were not known.
        """
        for engine in self.engines:
            if engine.take_exit(now):
                logging.getLogger("worldsim").warning("engine %d has ended", engine.number)
                self._handle_exit(engine)
            if engine.restart_due(now) and engine.start(now):
                self._load_leases(engine, leases, take_in_leases)

    def send_heartbeats(self, leases: Iterator[Lease]) -> None:
        """Renew all leases on all engines."""
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
        self._folder.close()

    def _watch(self, engine: EngineProcess) -> None:
        for socket in (engine.data, engine.control):
            self._sockets.watch(socket)

    def _load_leases(
        self,
        engine: EngineProcess,
        leases: Callable[[], Iterator[Lease]],
        take_in_leases: Callable[[bytes], list[Lease]],
    ) -> None:
        """Ask an engine for the leases in its journal: a restarted router does not know them."""

        def told(reply: Message | None) -> None:
            if reply is None:
                return
            for lease in take_in_leases(reply.payloads[0]):
                for other in self.ready:
                    self.hello(other, lease, partial(self._record_listed, engine=other, lease=lease))
            self._register_leases(engine, [self._own_lease, *leases()])

        self.request(engine, {"op": "leases"}, key="", on_reply=told, control=True)

    def _record_listed(self, reply: Message | None, engine: EngineProcess, lease: Lease) -> None:
        if reply is not None:
            self.record_sessions(reply.header.get("sessions", {}), engine, lease.token)

    def _register_leases(self, engine: EngineProcess, leases: Sequence[Lease]) -> None:
        """Make all leases known to an engine; it is then ready."""
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
        """Handle the end of an engine: fail its pending requests, and fail over its sessions."""
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
        """Let one engine take over all sessions of another; if it cannot, they wait for a restart."""
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
