"""Listening sockets: exclusive to one server and, for ``ipc://``, to its user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from worldsim.bridge.client.local_address import is_own
from worldsim.bridge.wire.protocol import control_address
from worldsim.errors import BridgeError

__all__ = ["Listener", "listen"]

_BACKLOG = 128
_PORT_TRIES = 20
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Listening socket, until it is closed.

    Args:
        address: ``ipc://PATH``, ``ipc://@NAME`` or ``tcp://HOST:PORT``; the port may be ``*``.
        owner_only: accept only processes of this user and of root at an ``ipc://`` address.

    Raises:
        BridgeError: an address that is malformed, or that another server has.
    """

    def __init__(self, address: str, *, owner_only: bool) -> None:
        self._owner_only = owner_only
        self._stack = contextlib.ExitStack()
        kind, _, rest = address.partition("://")
        try:
            if kind == "ipc" and rest:
                self.sock = self._bind_unix(rest)
                self.address = address
            elif kind == "tcp" and rest:
                self.sock = self._bind_tcp(rest)
                self.address = _tcp_address(self.sock)
            else:
                raise ValueError("neither ipc://PATH nor tcp://HOST:PORT")
            self.sock.listen(_BACKLOG)
            self.sock.setblocking(False)
            self._spare_descriptor = os.open(os.devnull, os.O_RDONLY)
        except (OSError, ValueError) as error:
            self._stack.close()
            rule, remedy = "an address must be free and well-formed", "name another one with --bind"
            raise BridgeError(rule, f"{address}: {error}", remedy) from error

    def accept(self) -> socket.socket | None:
        """Accept the next connection, or return None; reject it if there is no descriptor."""
        while True:
            try:
                sock, _ = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    continue  # it has gone already
                self._reject_connection()
                return None
            if self._owner_only and self.sock.family == socket.AF_UNIX and not is_own(sock):
                sock.close()
                continue
            sock.setblocking(False)
            _enable_keepalive(sock)
            return sock

    def close(self) -> None:
        """Close the socket; deletes the file of an ``ipc://`` address."""
        os.close(self._spare_descriptor)
        self._stack.close()

    def _reject_connection(self) -> None:
        """Reject a connection with the spare descriptor; left waiting it would wake the loop for ever."""
        os.close(self._spare_descriptor)
        with contextlib.suppress(OSError):
            self.sock.accept()[0].close()
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY)

    def _bind_unix(self, path: str) -> socket.socket:
        """Bind a file of mode 0600; only the holder of its lock replaces an old one."""
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        if path.startswith("@"):
            sock.bind("\0" + path[1:])
            return sock
        self._stack.enter_context(_hold_lock(Path(f"{path}.lock")))
        if Path(path).is_socket():
            _check_free(path)
            Path(path).unlink()
        event_mask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(event_mask)
        self._stack.callback(_unlink_own, Path(path), os.stat(path))
        return sock

    def _bind_tcp(self, rest: str) -> socket.socket:
        host, _, port = rest.rpartition(":")
        if not host or not (port == "*" or (port.isdecimal() and int(port) < 65536)):
            raise ValueError("no host and port")
        host = host.strip("[]")
        found = socket.getaddrinfo(
            None if host == "*" else host, 0 if port == "*" else int(port), type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )  # fmt: skip
        family, kind, protocol, _, sockaddr = found[0]
        sock = self._stack.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(sockaddr)
        return sock


def listen(address: str, *, owner_only: bool) -> tuple[Listener, Listener]:
    """Bind the data socket and the control socket of a server.

    A port that is left open is chosen again until the next one is free, too.

    Args:
        address: of the data socket, as ``Listener`` takes it.
        owner_only: as of ``Listener``.

    Raises:
        BridgeError: an address that is malformed, or that another server has.
    """
    for left in reversed(range(_PORT_TRIES if address.endswith(":*") else 1)):
        data = Listener(address, owner_only=owner_only)
        try:
            return data, Listener(control_address(data.address), owner_only=owner_only)
        except BridgeError:
            data.close()
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


@contextlib.contextmanager
def _hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock file. BlockingIOError if another process has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                break
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # it was deleted by who held it before
    try:
        yield
    finally:
        _unlink_own(path, os.fstat(file))
        os.close(file)


def _unlink_own(path: Path, own: os.stat_result) -> None:
    """Delete a file, unless it was deleted meanwhile and another process made a new one."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(own, path.stat()):
            path.unlink()


def _check_free(path: str) -> None:
    """Raise OSError if a process listens at a socket's file, even without its lock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise OSError(f"it may be in use: {error}") from error
    raise OSError("a server has it")


def _tcp_address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _enable_keepalive(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        return
    options = {
        (socket.IPPROTO_TCP, "TCP_NODELAY"): 1,
        (socket.SOL_SOCKET, "SO_KEEPALIVE"): 1,
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE"): 3,
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL"): 1,
        (socket.IPPROTO_TCP, "TCP_KEEPCNT"): 3,
    }
    for (level, name), value in options.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                sock.setsockopt(level, getattr(socket, name), value)
