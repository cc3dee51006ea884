"""A server's sockets, whatever clients do to them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

SERVER = """
import sys
from worldsim.bridge.server.sockets import Sockets
sockets = Sockets(sys.argv[1])
print(sockets.address, flush=True)
count = 0
while count < 3:
    sockets.poll(0.1)
    count += sockets.receive(control=False) is not None
sys.stdin.read()
for _ in range(100):
    sockets.poll(0.01)
    while sockets.receive(control=False):
        count += 1
sockets.close()
print(count)
"""
"""Binds, reads little until its standard input ends, then all there is."""


def fill(address: str, **options: int) -> zmq.Socket[bytes]:
    """A client's socket after it has sent as much as the server takes unread."""
    client: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    client.linger = 0
    for name, value in options.items():
        setattr(client, name, value)
    client.connect(address)
    sent, end = 0, time.monotonic() + 1.0
    while time.monotonic() < end:
        if client.poll(50, zmq.POLLOUT):
            client.send(b"x" * 20_000, zmq.DONTWAIT)
            sent += 1
    assert sent > 64
    return client


@pytest.mark.parametrize("address", ["ipc", "tcp"])
@pytest.mark.parametrize("beats", [False, True])
def test_clients_that_fill_their_queue_and_leave_end_nothing(
    tmp_path: Path, address: str, beats: bool
) -> None:
    bound = f"ipc://{tmp_path}/s" if address == "ipc" else "tcp://127.0.0.1:*"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, bound], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        where = server.stdout.readline().strip()
        options = {"heartbeat_ivl": 100, "heartbeat_timeout": 300, "heartbeat_ttl": 300} if beats else {}
        client = fill(where, **options)
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.6)
        client.close()
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(1.6)
        said, _ = server.communicate(timeout=30)
        assert server.returncode == 0
        assert int(said) > 3
    finally:
        server.kill()
        server.communicate(timeout=30)
