"""A server's sockets, whatever clients do to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.waiting import PATIENCE, wait_until

SERVER = """
import sys
from worldsim.bridge.server.sockets import Sockets
sockets = Sockets(sys.argv[1])
print(sockets.address, flush=True)
count = 0
while count < 3:
    sockets.poll(0.1)
    count += sockets.receive(control=False) is not None
print("paused", flush=True)
sys.stdin.read()
last = False
while not last or len(sockets) > 1:
    sockets.poll(0.1)
    while (message := sockets.receive(control=False)) is not None:
        count += 1
        last = last or bytes(message.parts[0]) == b"last"
sockets.close()
print(count)
"""
"""Binds, reads little until its standard input ends, then all there is up to the last client's message."""
SIZE = 20_000
HEARTBEATS = {"heartbeat_ivl": 100, "heartbeat_timeout": 300, "heartbeat_ttl": 300}


@pytest.fixture(params=["ipc", "tcp"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    bound = f"ipc://{tmp_path}/s" if request.param == "ipc" else "tcp://127.0.0.1:*"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, bound], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate(timeout=PATIENCE)


def connect(address: str, **options: int) -> zmq.Socket[bytes]:
    """Return a client's socket with these ZeroMQ options."""
    client: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    client.linger = 0
    for name, value in options.items():
        setattr(client, name, value)
    client.connect(address)
    return client


def fill(client: zmq.Socket[bytes]) -> int:
    """Send until the client's queue is full; return the number of messages."""
    sent = 0
    while client.poll(0, zmq.POLLOUT):
        client.send(b"x" * SIZE, zmq.DONTWAIT)
        sent += 1
    return sent


def wait_for_disconnect(client: zmq.Socket[bytes], events: zmq.Socket[bytes]) -> None:
    """Keep the queue full until the connection has failed for want of an answered heartbeat."""

    def disconnected() -> bool:
        fill(client)
        return bool(events.poll(0)) and recv_monitor_message(events)["event"] == zmq.EVENT_DISCONNECTED

    wait_until(disconnected, "a disconnect")


@pytest.mark.slow
@pytest.mark.parametrize("beats", [False, True])
def test_clients_that_fill_their_queue_and_leave_end_nothing(
    server: subprocess.Popen[str], beats: bool
) -> None:
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    client = connect(address, **(HEARTBEATS if beats else {}))
    events = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    for _ in range(3):
        client.send(b"x" * SIZE)
    assert server.stdout.readline().strip() == "paused"
    assert fill(client) > 64
    if beats:
        wait_for_disconnect(client, events)
    assert server.poll() is None
    client.disable_monitor()
    client.close()
    last = connect(address)
    last.send(b"last")
    said, _ = server.communicate(timeout=PATIENCE)
    last.close()
    assert server.returncode == 0
    assert int(said) > 3
