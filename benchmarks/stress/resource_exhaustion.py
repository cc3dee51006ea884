"""Exhaustion of memory, connections and file descriptors, and a stopped server."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import zmq

from benchmarks.stress.raw_client import RawClient, new_name
from benchmarks.stress.server_process import ServerUnderTest
from benchmarks.stress.victim import Victim, quantile
from worldsim.bridge.auth.keys import add_client
from worldsim.bridge.client import Client, ClientKeys
from worldsim.bridge.wire.protocol import control_address, decode, encode
from worldsim.errors import WorldsimError

__all__ = ["bytes_", "descriptors", "pauses"]

ROUNDS = 3
"""Attack and baseline alternate, so that other load on the machine affects both."""
CLIENTS = 300
TTL = 2.0
_MIB = 2**20
_GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x00NULL" + bytes(16 + 32)
_READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


def bytes_(folder: Path, world: Path, seconds: float) -> dict[str, Any]:
    """Send endless messages, messages of many parts, large waiting ones, and read no replies.

    Returns:
        counts: ``byte_flood_memory_mb``, the server's largest growth; ``byte_flood_p99_ratio`` of a victim's
        steps, with the attack over without it.
    """
    options = ["--slots", "16", "--lease-ttl", "600"]
    with ServerUnderTest(world, f"ipc://{folder}/bytes.sock", options, folder / "bytes.log") as server:
        victim = Victim(server.address)
        victim.measure(1)
        begun = server.memory
        baseline, attacked, peaks = [], [], []
        for _ in range(ROUNDS):
            with _attacked(server.address), _watched(server) as seen:
                attacked.append(victim.measure(seconds))
            peaks.append(max(seen) - begun)
            baseline.append(victim.measure(seconds))
        crashed, left = not server.alive, server.memory - begun
        victim.end()
    return {
        "crashes": int(crashed),
        "byte_flood_memory_mb": round(max(peaks), 1),
        "byte_flood_memory_left_mb": round(left, 1),
        "byte_flood_p99_ms": [quantile(baseline, 99), quantile(attacked, 99)],
        "byte_flood_p99_ratio": round(quantile(attacked, 99) / quantile(baseline, 99), 2),
        "others_refused": sum(len(row["refused"]) for row in (*attacked, *baseline)),
    }


def descriptors(folder: Path, world: Path) -> dict[str, Any]:
    """Open more silent connections than the server has descriptors, beside valid clients.

    Returns:
        counts: ``clients_rejected``, honest clients that could not come in, step or observe.
    """
    keys = folder / "keys"
    secret = add_client(keys, "robot")
    rejected, crashes = 0, 0
    for number, most in enumerate((256, 1024)):
        port = 20_000 + 2 * (time.monotonic_ns() // 1000 % 10_000)
        options = ["--slots", "8", "--keys", str(keys), "--journal", str(folder / f"descriptors{number}")]
        server = ServerUnderTest(world, f"tcp://127.0.0.1:{port}", options, folder / "descriptors.log")
        server.launch((resource.RLIMIT_NOFILE, most))
        own = ClientKeys.read(keys / "server.public", secret)
        try:
            with Client(server.address, own, timeout=60) as honest, _silent(port, most + 40):
                rejected += _count_failures(partial(_step_session, honest, 20))
                rejected += _count_failures(partial(_connect_and_step, server.address, own))
                time.sleep(1)
                rejected += _count_failures(partial(_step_session, honest, 5))
            crashes += not server.alive
        finally:
            crashes += server.stop() != 0
    return {"crashes": crashes, "clients_rejected": rejected}


def pauses(folder: Path, world: Path) -> dict[str, Any]:
    """Stop a server for ten times the lease time while clients send heartbeats; likewise a router with two
    replicas: the router, its engines, and both.

    Returns:
        counts: ``leases_lost`` of 300 in each of four cases, ``pause_sessions_lost``.
    """
    options = ["--lease-ttl", str(TTL)]
    total = {"crashes": 0, "leases_lost": 0, "pause_sessions_lost": 0}
    for replicas in (1, 2):
        name = f"pauses{replicas}"
        more = ["--slots", str(CLIENTS), "--journal", str(folder / name), "--replicas", str(replicas)]
        address = f"ipc://{folder}/{name}.sock"
        with ServerUnderTest(world, address, [*options, *more], folder / f"{name}.log") as server:
            assert server.process is not None
            idle_clients, router = _IdleClients(server.address), [server.process.pid]
            cases = [router] if replicas == 1 else [router, server.engines, [*router, *server.engines]]
            for processes in cases:
                lost, gone = _pause(server, processes, idle_clients)
                total["leases_lost"] += lost
                total["pause_sessions_lost"] += gone
            total["crashes"] += not server.alive
            idle_clients.close()
    return total


def _pause(server: ServerUnderTest, processes: Sequence[int], idle_clients: _IdleClients) -> tuple[int, int]:
    """Stop processes for ten times the lease time; return the numbers of lost leases and sessions."""
    with server.stopped(processes):
        end = time.monotonic() + 10 * TTL
        while time.monotonic() < end:
            idle_clients.heartbeat()
            time.sleep(TTL / 4)
    idle_clients.heartbeat()
    time.sleep(TTL)
    return idle_clients.count()


class _IdleClients:
    """Many idle clients, each with its own connection, lease and session."""

    def __init__(self, address: str) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        context.set(zmq.MAX_SOCKETS, 4096)
        self._visitors = [_OneSocket(context, address) for _ in range(CLIENTS)]
        for number, one in enumerate(self._visitors):
            one.hello()
            if number % 20 == 0:
                self.heartbeat(number)
        data = RawClient(address)
        for number, one in enumerate(self._visitors):
            data.lease = one.lease
            data.ask("open", session=one.session, seed=number)
            if number % 20 == 0:
                self.heartbeat()
        data.close()

    def heartbeat(self, most: int = CLIENTS) -> None:
        """Send heartbeats."""
        for one in self._visitors[:most]:
            one.heartbeat()

    def count(self) -> tuple[int, int]:
        """Count lost leases and sessions."""
        leases = []
        for number, one in enumerate(self._visitors):
            leases.append((one.lease, one.hello()))
            if number % 20 == 0:
                self.heartbeat()
        lost = sum(old != reply["lease"] for old, reply in leases)
        kept = {name for _, reply in leases for name in reply["sessions"]}
        gone = sum(one.session not in kept for one in self._visitors)
        return lost, gone

    def close(self) -> None:
        for one in self._visitors:
            one.socket.close()


class _OneSocket:
    """Control connection of one idle client."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger, self.socket.sndhwm = 0, 1000
        self.socket.connect(control_address(address))
        self.lease: str | None = None
        self.session = new_name()

    def hello(self) -> dict[str, Any]:
        """Send ``hello`` with its lease until answered; return the reply."""
        for _ in range(30):
            with contextlib.suppress(zmq.Again):
                self.socket.send_multipart(
                    encode({"op": "hello", "id": 1, "client": "crowd", "lease": self.lease}), zmq.DONTWAIT
                )
            while self.socket.poll(2000):
                header = decode(self.socket.recv_multipart()).header
                if header["op"] == "hello" and header["ok"]:
                    self.lease = self.lease or header["lease"]
                    return header
        raise AssertionError("a hello was not answered")

    def heartbeat(self) -> None:
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart(
                encode({"op": "heartbeat", "id": 2, "lease": self.lease}), zmq.DONTWAIT
            )
            while True:
                self.socket.recv_multipart(zmq.DONTWAIT)


def _count_failures(work: Callable[[], None]) -> int:
    """1 where it fails."""
    try:
        work()
    except WorldsimError:
        return 1
    return 0


def _step_session(client: Client, steps: int) -> None:
    session = client.open()
    for _ in range(steps):
        step = session.step()
        session.observe(step.frame, step.pose)
    session.close()


def _connect_and_step(address: str, keys: ClientKeys) -> None:
    with Client(address, keys, timeout=30) as client:
        _step_session(client, 5)


@contextlib.contextmanager
def _silent(port: int, count: int) -> Iterator[None]:
    """Open silent connections."""
    idle_clients: list[socket.socket] = []
    for at in range(count):
        with contextlib.suppress(OSError):
            idle_clients.append(socket.create_connection(("127.0.0.1", port + at % 2), timeout=1))
    try:
        yield
    finally:
        for one in idle_clients:
            one.close()


@contextlib.contextmanager
def _watched(server: ServerUnderTest) -> Iterator[list[float]]:
    """Sample the server's memory."""
    seen, over = [server.memory], threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            seen.append(server.memory)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield seen
    over.set()
    thread.join()


@contextlib.contextmanager
def _attacked(address: str) -> Iterator[None]:
    """Run the attacker in a process of its own."""
    context = multiprocessing.get_context("spawn")
    over, ready = context.Event(), context.Event()
    process = context.Process(target=_attack, args=(address, ready, over), daemon=True)
    process.start()
    ready.wait(60)
    yield
    over.set()
    process.join(20)
    process.kill()
    process.join()


def _attack(address: str, ready: Event, over: Event) -> None:
    os.nice(10)  # what it does to the server counts, not what it takes of the processor itself
    client = RawClient(address)
    client.hello()
    session, attacker = new_name(), _Attacker(address, str(client.lease))
    client.ask("open", session=session, seed=1)
    for seq in range(1, 9):
        client.ask("step", session=session, seq=seq, control={}, codec="raw")
    ready.set()
    while not over.wait(0.1):
        attacker.turn(session)
        client.heartbeat()
    client.ask("close", session=session, timeout=20)


class _Attacker:
    """Attacker: unfinished 8 MiB messages, 15 MB of refused ones, unread replies, per turn."""

    def __init__(self, address: str, lease: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._address, self._lease = address, lease
        self._endless = itertools.cycle([self._dealer() for _ in range(3)])
        self._mute, self._false_arrays = ([self._dealer() for _ in range(3)] for _ in range(2))
        self._replays = self._dealer()
        self._raw: list[socket.socket] = []
        self._large = bytes(8 * _MIB)

    def turn(self, session: str) -> None:
        """Send some messages of each kind."""
        self._send(next(self._endless), [self._large], zmq.SNDMORE)
        self._empty_parts()
        items = [{"session": session, "seq": seq} for seq in range(1, 9)]
        for one in self._mute:
            for _ in range(5):
                self._send(one, self._request("step_many", items=items, codec="raw"))
        frames = {"dtype": "u1", "shape": [145, 60, 80, 3], "part": 0}
        given = self._request("open", session=new_name(), seed=0, context={"frames": frames})
        self._send(self._false_arrays[0], [*given, self._large[: 145 * 60 * 80 * 3]])
        self._send(self._false_arrays[1], [*self._request("restore", session=new_name()), self._large])
        for _ in range(10):
            self._send(self._replays, self._request("step", session=session, seq=8, codec="jpeg"))
        with contextlib.suppress(zmq.Again):
            while True:
                self._replays.recv_multipart(zmq.DONTWAIT)

    def _empty_parts(self) -> None:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(0.5)
        with contextlib.suppress(OSError):
            raw.connect(self._address.removeprefix("ipc://"))
            raw.sendall(_GREETING + _READY + b"\x01\x00" * 50_000)
        self._raw = [*self._raw[-200:], raw]

    def _request(self, op: str, **fields: Any) -> list[Any]:
        return encode({"op": op, "id": 1, "lease": self._lease, **fields})

    def _send(self, one: zmq.Socket[bytes], parts: Sequence[Any], flags: int = 0) -> None:
        with contextlib.suppress(zmq.Again):
            one.send_multipart(list(parts), zmq.DONTWAIT | flags)

    def _dealer(self) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.DEALER)
        made.linger, made.sndhwm, made.rcvhwm = 0, 4, 1
        made.connect(self._address)
        return made
