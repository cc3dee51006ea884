"""The two ROUTER sockets of a server. Used by one thread."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from worldsim.bridge.doorkeeper import Doorkeeper
from worldsim.bridge.haste import hastened
from worldsim.bridge.keys import ServerKeys
from worldsim.bridge.protocol import REQUEST, control_address, is_local
from worldsim.errors import BridgeError

__all__ = ["Incoming", "Sockets"]

_HIGH_WATER = 64
_NOW, _NOW_AND_MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
"""Plain numbers: a flag costs as much as a message to look at."""
_PARTS = 2 + REQUEST.payloads
_TRIES = 20
_LINGER_MS = 1000
"""What is sent just before the end is given so long to leave."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came."""

    control: bool
    identity: bytes
    key: str
    parts: list[bytes]
    """One more than a message may have where it had more still."""


class Sockets:
    """Bound and listening.

    Args:
        address: of the data socket, ``ipc://PATH`` or ``tcp://HOST:PORT``; the port may be ``*``.
        keys: folder of keys; needed for any address that other machines can reach.

    Raises:
        BridgeError: an address that is malformed, taken, or needs keys.
    """

    def __init__(self, address: str, keys: Path | None = None) -> None:
        if keys is None and not is_local(address):
            rule, remedy = "an address that other machines can reach needs keys", "give --keys DIR"
            raise BridgeError(rule, address, f"{remedy}; `worldsim keys new NAME --dir DIR` makes them")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._context.term)
        self._secret = None
        try:
            with hastened():  # the first socket starts ZeroMQ's own threads
                if keys is not None:
                    self._secret = ServerKeys.read(keys)
                    self._stack.enter_context(Doorkeeper(self._context, keys))
                self._data, self._control, self.address = self._bind(address)
        except BaseException:
            self._stack.close()
            raise
        self._poller = zmq.Poller()
        for one in (self._data, self._control):
            self._poller.register(one, zmq.POLLIN)
        self._ready: set[int | zmq.Socket[bytes]] = set()
        """What could be read at the last poll; to ask another in vain costs as much as a message."""

    def watch(self, other: int | zmq.Socket[bytes]) -> None:
        """Let ``poll`` return when a file or another socket can be read, too."""
        self._poller.register(other, zmq.POLLIN)

    def forget(self, other: int | zmq.Socket[bytes]) -> None:
        """The opposite of ``watch``."""
        self._poller.unregister(other)

    def poll(self, seconds: float) -> None:
        """Wait until something has come, or for so long."""
        self._ready = {one for one, _ in self._poller.poll(round(seconds * 1000))}

    def ready(self, other: int | zmq.Socket[bytes]) -> bool:
        """Whether what is watched could be read at the last poll."""
        return other in self._ready

    def receive(self, *, control: bool) -> Incoming | None:
        """The next message of a socket that had some at the last poll, or None."""
        one = self._control if control else self._data
        if one not in self._ready:
            return None
        try:
            first = frame = one.recv(_NOW, copy=False)
        except zmq.Again:
            self._ready.discard(one)
            return None
        parts: list[bytes] = []
        while frame.more:
            frame = one.recv(copy=False)
            if len(parts) <= _PARTS:
                parts.append(frame.bytes)
        key = "" if self._secret is None else str(first.get("User-Id"))
        return Incoming(control, first.bytes, key, parts)

    def send(self, identity: bytes, parts: list[Any], *, control: bool) -> bool:
        """Send to one connection; False if there is no room. To one that is gone there always is."""
        one = self._control if control else self._data
        try:
            one.send(identity, _NOW_AND_MORE)
            for part in parts[:-1]:
                one.send(part, _NOW_AND_MORE)
            one.send(parts[-1], _NOW)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        return True

    def close(self) -> None:
        """Close both; what was sent leaves first, as far as that takes no longer than a second."""
        for one in (self._data, self._control):
            one.close(linger=_LINGER_MS)
        self._stack.close()

    def _bind(self, address: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes], str]:
        """Data socket, control socket and the data socket's address. A port that is left open is tried again
        until the next one is free, too."""
        _check_free(address)
        for left in reversed(range(_TRIES if address.endswith(":*") else 1)):
            data, control = self._socket(), self._socket()
            try:
                bound = _bind(data, address)
                _bind(control, control_address(bound))
            except BridgeError:
                data.close()
                control.close()
                if not left:
                    raise
            else:
                return data, control, bound
        raise AssertionError("the last try returns or raises")

    def _socket(self) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.ROUTER)
        made.sndhwm = made.rcvhwm = _HIGH_WATER
        made.linger = 0
        made.maxmsgsize = REQUEST.payload
        made.router_mandatory = True
        # No heartbeats of ZeroMQ's own: a client that fills its queue and leaves would end this process, for
        # libzmq 4.3.5 aborts when one is due on a connection that failed unread. TCP finds out who is gone.
        made.tcp_keepalive, made.tcp_keepalive_idle = 1, 3
        made.tcp_keepalive_intvl, made.tcp_keepalive_cnt = 1, 3
        made.tcp_maxrt = 5000
        made.ipv6 = True
        if self._secret is not None:
            self._secret.guard(made)
        return made


def _bind(one: zmq.Socket[bytes], address: str) -> str:
    """Bind; the file of an ``ipc://`` address is its owner's alone from the first moment."""
    mask = os.umask(0o177)
    try:
        one.bind(address)
    except zmq.ZMQError as error:
        rule, remedy = "an address must be free and well-formed", "name another one with --bind"
        raise BridgeError(rule, f"{address}: {error}", remedy) from error
    finally:
        os.umask(mask)
    return one.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _check_free(address: str) -> None:
    """ZeroMQ takes an ``ipc://`` address away from whoever has it; that is refused here."""
    kind, _, path = address.partition("://")
    if kind != "ipc" or path.startswith("@") or not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return
    rule, remedy = "an address must be free", "end the server that has it, or name another with --bind"
    raise BridgeError(rule, address, remedy)
