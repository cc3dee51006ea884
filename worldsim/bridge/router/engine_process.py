"""Engine process behind a router, with the connections to it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from worldsim.bridge.wire.protocol import REPLY, Message, control_address, decode, encode

__all__ = ["EngineProcess"]

_START = "import sys; from worldsim.cli import main; sys.exit(main(sys.argv[1:]))"
_STOP_SECONDS = 30.0
_MAX_FAILED_STARTS = 10
"""Failed starts in a row after which an engine is given up."""
_RESTART_SECONDS = 1.0


class EngineProcess:
    """Starts an engine process and restarts it whenever it ends.

    Args:
        number: of the engine.
        command_lines: of its command line, after ``worldsim``.
        folder: for the files of its sockets.
        journal: its journal's folder, or None.
        context: ZeroMQ context of its sockets.
    """

    def __init__(
        self,
        number: int,
        command_lines: Sequence[str],
        folder: Path,
        journal: Path | None,
        context: zmq.Context[Any],
    ) -> None:
        self.number, self.journal = number, journal
        self._address = f"ipc://{folder}/engine-{number}"
        self._command_line = [*command_lines, "--bind", self._address, "--behind-router"]
        self._command_line += [] if journal is None else ["--journal", str(journal)]
        self.data, self.control = (
            self._connect(context, self._address),
            self._connect(context, control_address(self._address)),
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.server_info: dict[str, Any] | None = None
        """Reply to ``hello``; None while it is starting."""
        self.failing_over = False
        """True while another engine takes over its sessions."""
        self._failed_starts, self._restart_at = 0, 0.0

    @property
    def ready(self) -> bool:
        """True if it accepts requests."""
        return self.server_info is not None

    @property
    def given_up(self) -> bool:
        """True after too many failed starts."""
        return self._failed_starts >= _MAX_FAILED_STARTS

    def start(self, now: float = 0.0) -> bool:
        """Start the process; it is ready once it answers ``hello``.

        Returns:
            False where the machine has no room for a process; it is tried again later.
        """
        command = [sys.executable, "-c", _START, *self._command_line]
        self.server_info = None
        try:
            # It ends with its standard input, so it never outlives the router. Ctrl-C is for the router only.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            logging.getLogger("worldsim").warning("engine %d could not be started: %s", self.number, error)
            self._failed_starts, self._restart_at = self._failed_starts + 1, now + _RESTART_SECONDS
            return False
        return True

    def mark_ready(self, server_info: dict[str, Any]) -> None:
        """Store the reply to ``hello``; the engine is ready."""
        self.server_info, self._failed_starts = server_info, 0

    def take_exit(self, now: float) -> bool:
        """Return True, once, if the process has ended."""
        if self.process is None or self.process.poll() is None:
            return False
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._failed_starts += not self.ready
        self.process, self.server_info, self._restart_at = None, None, now + _RESTART_SECONDS
        return True

    def restart_due(self, now: float) -> bool:
        """Return True if the process should be started again."""
        return (
            self.process is None and not self.failing_over and not self.given_up and now >= self._restart_at
        )

    def send(self, header: Mapping[str, Any], payloads: Sequence[Any] = (), *, control: bool = False) -> None:
        """Send a request; it waits here while the engine is away."""
        socket = self.control if control else self.data
        socket.send_multipart(encode(header, payloads, REPLY))

    def receive(self) -> Iterator[Message]:
        """Return the replies received so far."""
        for socket in (self.control, self.data):
            while socket.poll(0):
                yield decode(socket.recv_multipart(), REPLY)

    def reconnect(self, context: zmq.Context[Any]) -> list[zmq.Socket[bytes]]:
        """Replace the sockets of an engine that has ended; return the old ones."""
        old = [self.data, self.control]
        self.data = self._connect(context, self._address)
        self.control = self._connect(context, control_address(self._address))
        return old

    def stop(self) -> None:
        """Ask the process to end."""
        if self.process is not None:
            self.process.terminate()

    def close(self) -> None:
        """Wait for the end of the process, and kill it after a time-out."""
        self.data.close(0)
        self.control.close(0)
        if self.process is None:
            return
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _connect(self, context: zmq.Context[Any], address: str) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        # Unbounded: the router limits the waiting requests of every client.
        socket.sndhwm = socket.rcvhwm = 0
        socket.linger = 0
        socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 500
        socket.connect(address)
        return socket
