"""Server process of a tiny world, for stress tests."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.stress.raw_client import RawClient

__all__ = ["ServerUnderTest"]


class ServerUnderTest:
    """``worldsim serve`` in a process of its own.

    Args:
        world: the folder of a world.
        address: of its data socket.
        options: further ones of the command line.
        log: where what it says goes.
    """

    def __init__(
        self, world: Path, address: str, options: Sequence[str] = (), log: Path | None = None
    ) -> None:
        self.address, self.log = address, log or Path(os.devnull)
        self._command_line = [sys.executable, "-m", "worldsim.cli", "serve", str(world), "--bind", address]
        self._command_line += ["--threads", "1", *options]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 60.0) -> float:
        """Start it and wait for its first reply; return the seconds it took."""
        begun = time.monotonic()
        self.launch()
        client = RawClient(self.address)
        try:
            client.ask("info", kind="control", timeout=timeout, repeat=0.2)
        finally:
            client.close()
        return time.monotonic() - begun

    def launch(self, limit: tuple[int, int] | None = None) -> None:
        """Start it and do not wait.

        Args:
            limit: a resource, as the module of that name calls it, and how much of it the server may have.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command_line, stdout=log, stderr=log)
        if limit is not None:
            resource.prlimit(self.process.pid, limit[0], (limit[1], limit[1]))

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_engine(self, rng: random.Random) -> int:
        """Kill -9 one of its engine processes; return 1, or 0 if none runs."""
        children = self.engines
        if not children:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(children), signal.SIGKILL)
            return 1
        return 0

    @property
    def engines(self) -> list[int]:
        """Processes of a router's engines; none of a server without replicas."""
        assert self.process is not None
        return [int(row[0]) for row in _processes() if int(row[1]) == self.process.pid]

    @contextlib.contextmanager
    def stopped(self, processes: Sequence[int]) -> Iterator[None]:
        """SIGSTOP some of its processes for the length of the block."""
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM. Returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def memory(self) -> float:
        """Resident anonymous memory in MiB; 0 if it has ended."""
        if not self.alive:
            return 0.0
        lines = self._proc("status").read_text().splitlines()
        row = next(line for line in lines if line.startswith("RssAnon"))
        return int(row.split()[1]) / 1024

    @property
    def files(self) -> int:
        """Open file descriptors; 0 if it has ended."""
        return 0 if not self.alive else len(list(self._proc("fd").iterdir()))

    def _proc(self, name: str) -> Path:
        assert self.process is not None
        return Path("/proc") / str(self.process.pid) / name

    def __enter__(self) -> ServerUnderTest:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.stop()


def _processes() -> Iterator[tuple[str, str]]:
    """Return ids and parent ids of all running processes."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, _, rest = path.read_text().partition(" ")
            state, parent = rest.rpartition(")")[2].split()[:2]
            if state != "Z":
                yield number, parent
