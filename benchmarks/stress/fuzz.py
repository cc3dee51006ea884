"""Message fuzzer: noise, truncated and mutated messages, false sizes, other clients' sessions."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import struct
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import zmq

from benchmarks.stress.raw_client import NoReplyError, RawClient, new_name
from worldsim.bridge.wire.protocol import MAGIC, control_address

__all__ = ["Flood", "message"]

_GIVE_UP = 10
"""Rejected messages after which the server counts as dead."""
_OPS = (
    "open",
    "step",
    "step_many",
    "fork",
    "rewind",
    "observe",
    "snapshot",
    "restore",
    "close",
    "hello",
    "heartbeat",
    "info",
)
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 2**64 - 1, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\x00",
    "../../etc", b"\xff" * 9,
    [], {}, [[]] * 40, {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}, [1.5] * 16,
    msgpack.ExtType(5, b"x"), {"keys": 3},
)  # fmt: skip


def message(rng: random.Random, lease: str, session: str) -> list[bytes]:
    """Generate a fuzzed message; ``lease`` is valid and ``session`` is another client's."""
    make: Callable[[random.Random, str, str], list[bytes]] = rng.choice(_GENERATORS)
    return make(rng, lease, session)


def _header(rng: random.Random, lease: str, session: str) -> dict[str, Any]:
    """Generate an almost valid request header."""
    row: dict[str, Any] = {"op": rng.choice(_OPS), "id": rng.getrandbits(64), "lease": lease}
    row |= {"session": session, "seq": rng.choice((0, 1, 2**40)), "seed": 1, "codec": "raw"}
    row |= {"control": {"keys": ["forward"], "yaw": 0.0}, "frames": 1, "children": [new_name()], "items": []}
    for key in rng.sample(sorted(row), rng.randint(0, 4)):
        del row[key]
    return row


def _mutated(rng: random.Random, lease: str, session: str) -> list[bytes]:
    row = _header(rng, lease, session)
    for key in rng.sample(sorted(row), min(len(row), rng.randint(1, 3))):
        row[key] = rng.choice(_ODD)
    return [
        MAGIC,
        msgpack.packb(row),
        *(rng.randbytes(rng.randint(0, 200)) for _ in range(rng.randint(0, 2))),
    ]


def _wrong_owner(rng: random.Random, lease: str, session: str) -> list[bytes]:
    """Generate a well-formed request for another client's session, or an unknown session or lease."""
    row = _header(rng, rng.choice((lease, new_name())), rng.choice((session, new_name())))
    return [MAGIC, msgpack.packb(row)]


def _noise(rng: random.Random, *_: str) -> list[bytes]:
    return [rng.randbytes(rng.randint(0, 300)) for _ in range(rng.randint(1, 5))]


def _noisy_header(rng: random.Random, *_: str) -> list[bytes]:
    return [MAGIC, rng.randbytes(rng.randint(0, 300))]


def _truncated(rng: random.Random, lease: str, session: str) -> list[bytes]:
    raw = msgpack.packb(_header(rng, lease, session))
    return [MAGIC[: rng.choice((0, 3, 5, 5, 5))], raw[: rng.randrange(len(raw))]]


def _flipped(rng: random.Random, lease: str, session: str) -> list[bytes]:
    raw = bytearray(msgpack.packb(_header(rng, lease, session)))
    for _ in range(rng.randint(1, 8)):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return [MAGIC, bytes(raw)]


def _false_sizes(rng: random.Random, *_: str) -> list[bytes]:
    """Generate headers with false sizes, or that expand when parsed."""
    return [
        MAGIC,
        rng.choice(
            (
                b"\xdd\xff\xff\xff\xff",
                b"\xdf\xff\xff\xff\xff",
                b"\xdb\x7f\xff\xff\xff",
                b"\x81\xa2op" + b"\x91" * 3000,
                b"\x81\xa2op\xdc\xff\xff" + b"\x90" * 65000,
                b"\x81" * 500,
                b"\xc9\x00\x00\xff\xff\x01" + b"x" * 65535,
            )
        ),
    ]


def _many_parts(rng: random.Random, lease: str, session: str) -> list[bytes]:
    parts = rng.choice((0, 5, 6, 60))
    return [MAGIC, msgpack.packb(_header(rng, lease, session)), *[b"p"] * parts]


def _another_version(rng: random.Random, lease: str, session: str) -> list[bytes]:
    magic = rng.choice((b"WSIM\x02", b"WSIM\x00", b"WSIM", b"HTTP/", b"WSIM\x01\x01"))
    return [magic, msgpack.packb(_header(rng, lease, session))]


def _large(rng: random.Random, lease: str, session: str) -> list[bytes]:
    row = {"op": "restore", "id": 1, "lease": lease, "session": new_name()}
    return [MAGIC, msgpack.packb(row), rng.randbytes(rng.choice((10_000, 50_000)))]


def _false_arrays(rng: random.Random, lease: str, session: str) -> list[bytes]:
    """Generate a context or frame whose description is false."""
    shape = rng.choice(([2, 60, 80, 3], [2**31, 2**31, 2**31, 3], [0], [-1, 60, 80, 3], [1] * 20))
    array = {
        "dtype": rng.choice(("u1", "f4", "O", "f2")),
        "shape": shape,
        "part": rng.choice((0, 1, 7, -1)),
    }
    row = {"id": 1, "lease": lease, "session": new_name(), "seed": 1}
    opening = {**row, "op": "open", "context": {"frames": array, "controls": array, "poses": None}}
    observe = {"op": "observe", "id": 1, "lease": lease, "session": session, "seq": 1, "frame": array}
    return [MAGIC, msgpack.packb(rng.choice((opening, observe))), b"x" * 100]


_GENERATORS = (
    *(_mutated,) * 6, *(_wrong_owner,) * 3, *(_flipped,) * 3, *(_truncated,) * 2, *(_noise,) * 2,
    _noisy_header, _false_sizes,
    _many_parts, _another_version, _false_arrays, _large,
)  # fmt: skip


class Flood:
    """Fuzzing client in a process of its own.

    Args:
        address: of a server's data socket.
        session: somebody else's.
        rate: messages a second; 0 for as fast as they go.
    """

    def __init__(self, address: str, session: str, rate: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_flood, args=(theirs, address, session, rate), daemon=True)
        self._process.start()
        self.read()

    def start(self, messages: int) -> None:
        """Start sending so many messages."""
        self._pipe.send(messages)

    def read(self, timeout: float = 7200.0) -> dict[str, Any]:
        """Wait until all are sent; return ``messages``, ``seconds`` and ``unanswered``."""
        if not self._pipe.poll(timeout):
            return {"messages": 0, "seconds": timeout, "unanswered": 1}
        found: dict[str, Any] = self._pipe.recv()
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def _flood(pipe: Connection, address: str, session: str, rate: float) -> None:
    client, rng = RawClient(address), random.Random(session)
    client.hello()
    pipe.send({})
    while True:
        while not pipe.poll(1):
            client.heartbeat()
        pipe.send(_attack(client, pipe.recv(), rng, session, rate))


def _attack(
    client: RawClient, messages: int, rng: random.Random, session: str, rate: float
) -> dict[str, Any]:
    """Send so many messages, then check that every connection is still answered."""
    address, lease = client.address, str(client.lease)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    sockets = {"data": _dealer(context, address), "control": _dealer(context, control_address(address))}
    begun, unanswered, sent = time.monotonic(), 0, 0
    while sent < messages and unanswered < _GIVE_UP:
        kind = "control" if rng.random() < 0.25 else "data"
        unanswered += not _send(sockets[kind], message(rng, lease, session))
        sent += 1
        if rng.random() < 0.0005:
            sockets[kind].close()
            sockets[kind] = _dealer(context, address if kind == "data" else control_address(address))
        if rng.random() < 0.0002:
            _send_raw_noise(address, rng)
        if rate and sent % 20 == 0:
            time.sleep(max(0.0, begun + sent / rate - time.monotonic()))
        if sent % 500 == 0:
            client.heartbeat()
    for socket_ in sockets.values():
        unanswered += not _still_answers(socket_)
        socket_.close()
    seconds = time.monotonic() - begun
    with contextlib.suppress(NoReplyError):
        client.ask("info", kind="control", timeout=10)
        unanswered -= 1
    return {"messages": sent, "seconds": seconds, "unanswered": unanswered + 1}


def _dealer(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.sndhwm = dealer.rcvhwm = 64
    dealer.sndtimeo = 10_000
    dealer.connect(address)
    return dealer


def _send(dealer: zmq.Socket[bytes], parts: list[bytes]) -> bool:
    """Send, discarding replies; return False if the server accepts nothing for ten seconds."""
    with contextlib.suppress(zmq.Again):
        while True:
            dealer.recv_multipart(zmq.DONTWAIT)
    try:
        dealer.send_multipart(parts)
    except zmq.Again:
        return False
    return True


def _still_answers(dealer: zmq.Socket[bytes]) -> bool:
    """Return True if a valid request is answered on this connection within half a minute."""
    for _ in range(30):
        _send(
            dealer,
            [MAGIC, msgpack.packb({"op": "close", "id": 77, "lease": new_name(), "session": new_name()})],
        )
        end = time.monotonic() + 1
        while (left := end - time.monotonic()) > 0 and dealer.poll(int(left * 1000)):
            reply = dealer.recv_multipart()
            with contextlib.suppress(ValueError, IndexError):
                if msgpack.unpackb(reply[1])["id"] == 77:
                    return True
    return False


def _send_raw_noise(address: str, rng: random.Random) -> None:
    """Send raw bytes or half a ZMTP greeting to the server's socket, and disconnect."""
    kind, _, rest = address.partition("://")
    family = socket.AF_UNIX if kind == "ipc" else socket.AF_INET
    host, _, port = rest.rpartition(":")
    with contextlib.suppress(OSError), socket.socket(family) as raw:
        raw.settimeout(1)
        raw.connect(rest if kind == "ipc" else (host, int(port)))
        greeting = b"\xff" + struct.pack(">Q", 1) + b"\x7f\x03\x00NULL" + bytes(48)
        raw.sendall(rng.choice((rng.randbytes(300), greeting[:12], greeting, greeting + rng.randbytes(100))))
