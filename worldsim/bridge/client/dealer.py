"""DEALER socket with its monitor."""

from __future__ import annotations

import random
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from worldsim.bridge.client.keys import ClientKeys
from worldsim.bridge.wire.protocol import REPLY

__all__ = ["DealerSocket"]

_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH


class DealerSocket:
    """DEALER socket that connects in the background, and reconnects."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, keys: ClientKeys | None
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self._set_options()
        if keys is not None:
            keys.apply_to(self.socket)
        self.monitor = self.socket.get_monitor_socket(_EVENTS)
        self.socket.connect(address)
        self._broken = False
        self.refused = False
        """True once the server has refused the key, until it takes it. It may do so before the first request,
        and libzmq does not ask again."""

    def _set_options(self) -> None:
        options = {
            zmq.LINGER: 0,
            zmq.SNDHWM: 64,
            # No bound but that on requests under way: with one, and heartbeats, libzmq 4.3.5 aborts where a
            # connection fails while the queue is full.
            zmq.RCVHWM: 0,
            zmq.MAXMSGSIZE: REPLY.payload,
            zmq.HEARTBEAT_IVL: 1000,
            zmq.HEARTBEAT_TIMEOUT: 3000,
            zmq.RECONNECT_IVL: random.randint(50, 150),
            zmq.RECONNECT_IVL_MAX: 5000,
        }
        for option, value in options.items():
            self.socket.set(option, value)

    def send(self, parts: list[Any]) -> bool:
        """Send a message; return False if the socket is full."""
        try:
            self.socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """Return the next received message, or None."""
        try:
            return self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None

    def poll_events(self) -> bool:
        """Return True if it has reconnected since the last call; see ``refused``, too."""
        reconnected = False
        while self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)["event"]
            reconnected |= self._broken and event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._broken = event != zmq.EVENT_HANDSHAKE_SUCCEEDED
            self.refused = self._broken and (self.refused or event == zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        return reconnected

    def close(self) -> None:
        """Close the socket."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
