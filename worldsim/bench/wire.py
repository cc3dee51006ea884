"""Frames a second of 64 clients over the wire, compared with the bare engine at the same batch.

``python -m worldsim.bench.wire ADDRESS CLIENTS SECONDS`` is the clients' side: one process with a DEALER for
each client, every one of which sends its next control when its frame has come.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldsim.bench.machine import MachineLimits
from worldsim.bench.steps import BenchCase, time_steps
from worldsim.engine.world import World
from worldsim.errors import BridgeError

if TYPE_CHECKING:
    import zmq

_REWIND_FRAMES = 16
"""Frames that a session can be rewound by: the server's default."""
_WARM_UP = _REWIND_FRAMES + 4
"""Steps that are not timed: until then every session's rewind history grows."""


@dataclass(frozen=True, slots=True)
class WireTiming:
    """Frames a second over ipc, raw frames, K = 1."""

    clients: int
    wire_fps: float
    engine_fps: float
    """Mean of the bare engine at the same batch and ``rewind_frames``, before and after."""
    p50_ms: float
    """Time from a client's request to its frame."""
    p99_ms: float

    @property
    def ratio(self) -> float:
        """Frames a second over the wire over those of the engine."""
        return self.wire_fps / self.engine_fps


def time_wire(world: World, name: str, clients: int = 64, seconds: float = 10.0) -> WireTiming:
    """Start ``worldsim serve``, load it for ``seconds``, stop it; time the engine alone before and after.

    Raises:
        BridgeError: the server did not come up.
    """
    steps = world.denoising_steps_near(1)
    case = BenchCase(batch=clients, denoising_steps=steps, rewind_frames=_REWIND_FRAMES)
    limits = MachineLimits(1.0, 1.0)
    alone = [time_steps(world, case, limits, seconds / 2).frames_per_s]
    options = ("--denoising-steps", str(steps))
    with tempfile.TemporaryDirectory() as folder, serving(name, Path(folder), clients, *options) as address:
        line = [sys.executable, "-m", "worldsim.bench.wire", address, str(clients), str(seconds)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
    alone.append(time_steps(world, case, limits, seconds / 2).frames_per_s)
    seen = json.loads(done.stdout.splitlines()[-1])
    return WireTiming(clients, seen["fps"], float(np.mean(alone)), seen["p50_ms"], seen["p99_ms"])


@contextmanager
def serving(world: str, folder: Path, slots: int, *options: str) -> Iterator[str]:
    """A ``worldsim serve`` process with its socket in ``folder``; gives its address."""
    address = f"ipc://{folder}/wire.sock"
    line = [sys.executable, "-m", "worldsim.cli", "serve", world, "--bind", address, "--slots", str(slots)]
    line += ["--rewind-frames", str(_REWIND_FRAMES)]
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen([*line, *options], stdout=log, stderr=log)
    try:
        _wait_for(address, server, folder / "server.log")
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def load(address: str, clients: int, seconds: float) -> dict[str, float]:
    """Step ``clients`` sessions, each of its own client, for ``seconds``."""
    import zmq

    context = zmq.Context()
    control = _connect(context, _control(address))
    sockets = [_connect(context, address) for _ in range(clients)]
    leases = [_hello(control, i) for i in range(clients)]
    sessions = [_ClientSession(socket, lease) for socket, lease in zip(sockets, leases, strict=True)]
    poller = zmq.Poller()
    for client in sessions:
        poller.register(client.socket, zmq.POLLIN)
        client.open()
    by_socket = {client.socket: client for client in sessions}
    started, until, last, waits = 0.0, float("inf"), 0.0, []
    while time.perf_counter() < until:
        for socket, _ in poller.poll(1000):
            client = by_socket[socket]
            waited = client.take()
            if started:
                last = time.perf_counter()
                waits.append(waited)
            client.step()
        if not started and min(client.seq for client in sessions) > _WARM_UP:
            started = time.perf_counter()
            until = started + seconds
    context.destroy(linger=0)
    p50, p99 = np.quantile(waits, (0.5, 0.99)) * 1000
    # Frames come a batch at a time: what is waited for after the last of them is no time of theirs.
    fps = len(waits) / (last - started)
    return {"fps": round(fps, 2), "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


class _ClientSession:
    """One client and its session."""

    def __init__(self, socket: zmq.Socket[bytes], lease: str) -> None:
        self.socket, self._lease, self.seq = socket, lease, 0
        self._session, self._sent = secrets.token_hex(16), 0.0

    def open(self) -> None:
        self._send({"op": "open", "seed": 1, "start": None})

    def step(self) -> None:
        self.seq += 1
        self._send({"op": "step", "seq": self.seq, "control": {"yaw": 0.05}, "codec": "raw"})

    def take(self) -> float:
        """Receive the answer; returns the seconds that it took."""
        from worldsim.bridge.wire.protocol import REPLY, decode

        header = decode(self.socket.recv_multipart(), REPLY).header
        if not header["ok"]:
            raise BridgeError("a step must be answered with a frame", header["error"])
        return time.perf_counter() - self._sent

    def _send(self, header: dict[str, Any]) -> None:
        from worldsim.bridge.wire.protocol import encode

        self._sent = time.perf_counter()
        common = {"id": self.seq, "lease": self._lease, "session": self._session}
        self.socket.send_multipart(encode({**header, **common}))


def _connect(context: zmq.Context[Any], address: str) -> zmq.Socket[bytes]:
    import zmq

    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(address)
    return socket


def _hello(control: zmq.Socket[bytes], number: int) -> str:
    from worldsim.bridge.wire.protocol import REPLY, decode, encode

    control.send_multipart(encode({"op": "hello", "id": number, "client": f"bench {number}", "lease": None}))
    if not control.poll(10_000):
        raise BridgeError("the server must answer hello", "nothing for 10 s", "is it running?")
    return str(decode(control.recv_multipart(), REPLY).header["lease"])


def _control(address: str) -> str:
    from worldsim.bridge.wire.protocol import control_address

    return control_address(address)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers; it has a minute to load its world."""
    import zmq

    context, until = zmq.Context(), time.monotonic() + 60
    try:
        control = _connect(context, _control(address))
        while time.monotonic() < until and server.poll() is None:
            try:
                _hello(control, os.getpid())
                return
            except BridgeError:
                continue
    finally:
        context.destroy(linger=0)
    raise BridgeError("a server must come up within a minute", log.read_text()[-300:], "run `worldsim serve`")


if __name__ == "__main__":
    print(json.dumps(load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
