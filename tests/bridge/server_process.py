"""``worldsim serve`` in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START = "import sys; from worldsim.cli import main; sys.exit(main(sys.argv[1:]))"
PATIENCE = 90.0
"""Seconds in which it must be ready."""


class ServerProcess:
    """Ready once it is made; whoever makes it ends it."""

    def __init__(self, world: Path, address: str, *options: str) -> None:
        words = ["serve", str(world), "--bind", address, "--dtype", "float32", "--threads", "1", *options]
        self.address = address
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        guard = threading.Timer(PATIENCE, self._process.kill)
        guard.start()
        ready = self._process.stdout.readline()
        guard.cancel()
        assert ready.startswith("serving "), f"no server: {ready!r}"

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._end()

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._end()

    def _end(self) -> None:
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def serving(world: Path, address: str, *options: str) -> Iterator[ServerProcess]:
    """A server for as long as the context lasts."""
    server = ServerProcess(world, address, *options)
    try:
        yield server
    finally:
        server.stop()
