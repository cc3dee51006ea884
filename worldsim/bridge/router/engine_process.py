"""One engine behind a front: its process and the connections to it."""

from __future__ import annotations

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
"""Starts in a row that may fail before an engine is given up."""
_RESTART_SECONDS = 1.0


class EngineProcess:
    """Starts its engine and starts it again whenever it ends.

    Args:
        number: of the engine.
        command_lines: of its command line, after ``worldsim``.
        folder: for the files of its sockets.
        journal: its journal's folder, or None.
        context: of the front's sockets to it.
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
        """What it answered to ``hello``; None while it is starting."""
        self.failing_over = False
        """Whether another engine is taking over its sessions."""
        self._failed_starts, self._restart_at = 0, 0.0

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.server_info is not None

    @property
    def given_up(self) -> bool:
        """Whether it was started in vain too often."""
        return self._failed_starts >= _MAX_FAILED_STARTS

    def start(self) -> None:
        """Start the process; it is ready once it answers ``hello``."""
        command = [sys.executable, "-c", _START, *self._command_line]
        # It ends when its standard input does, so it never outlives the front. Ctrl-C is the front's alone.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.server_info = None

    def mark_ready(self, server_info: dict[str, Any]) -> None:
        """It answered ``hello``."""
        self.server_info, self._failed_starts = server_info, 0

    def take_exit(self, now: float) -> bool:
        """Whether the process has ended; says so once."""
        if self.process is None or self.process.poll() is None:
            return False
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._failed_starts += not self.ready
        self.process, self.server_info, self._restart_at = None, None, now + _RESTART_SECONDS
        return True

    def restart_due(self, now: float) -> bool:
        """Whether it is time to start the process again."""
        return (
            self.process is None and not self.failing_over and not self.given_up and now >= self._restart_at
        )

    def send(self, header: Mapping[str, Any], payloads: Sequence[Any] = (), *, control: bool = False) -> None:
        """Send a request; it waits here while the engine is away."""
        socket = self.control if control else self.data
        socket.send_multipart(encode(header, payloads, REPLY))

    def receive(self) -> Iterator[Message]:
        """Replies that have come."""
        for socket in (self.control, self.data):
            while socket.poll(0):
                yield decode(socket.recv_multipart(), REPLY)

    def reconnect(self, context: zmq.Context[Any]) -> list[zmq.Socket[bytes]]:
        """Forget what waits for an engine that has ended; returns the sockets that are closed now."""
        old = [self.data, self.control]
        self.data = self._connect(context, self._address)
        self.control = self._connect(context, control_address(self._address))
        return old

    def stop(self) -> None:
        """Ask the process to end."""
        if self.process is not None:
            self.process.terminate()

    def close(self) -> None:
        """Wait for the end of the process, and see to it if it takes too long."""
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
        # Without bounds: the front bounds what every client may have waiting.
        socket.sndhwm = socket.rcvhwm = 0
        socket.linger = 0
        socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 500
        socket.connect(address)
        return socket
