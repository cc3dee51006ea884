"""Programs with a time limit each: what they print is kept, and none of them outlives its limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Outcome", "Program"]

_POLL = 0.2
_TAIL = 1500
"""Characters of a log that are told with the outcome."""

Status = Literal["done", "failed", "over"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a part of the run."""

    name: str
    status: Status
    """"over": at its limit, stopped."""
    seconds: float
    limit: float
    exit: int | None
    tail: str
    """The end of what it printed."""


class Program:
    """A program that has been started.

    Args:
        name: of the part; its log is ``<name>.log``.
        command: what to run.
        logs: folder of the log.
        limit: seconds from now until it is told to stop.
        stop: how it is told; a recording takes SIGINT and keeps what it has.
        grace: seconds that it then has.
        may_be_stopped: whether to be stopped at the limit is how it is meant to end.
        env: what is added to the environment.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        logs: Path,
        limit: float,
        *,
        stop: signal.Signals = signal.SIGTERM,
        grace: float = 15.0,
        may_be_stopped: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.limit = name, limit
        self._stop, self._grace, self._may_be_stopped = stop, grace, may_be_stopped
        self._log = logs / f"{name}.log"
        self._began = time.monotonic()
        self._was_stopped: float | None = None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    def poll(self) -> Outcome | None:
        """Return the outcome, or None while it runs; stop it at its limit, kill it after its grace."""
        now, code = time.monotonic(), self._process.poll()
        if code is not None:
            self._kill_rest()
            return self._outcome(code)
        if self._was_stopped is None and now - self._began > self.limit:
            self.stop()
        elif self._was_stopped is not None and now - self._was_stopped > self._grace:
            self._kill_rest()
            self._process.wait()
            return self._outcome(None)
        return None

    def wait(self, tick: Callable[[], None] = lambda: None) -> Outcome:
        """Wait for the outcome; ``tick`` is called often meanwhile."""
        while (outcome := self.poll()) is None:
            tick()
            time.sleep(_POLL)
        return outcome

    def stop(self) -> None:
        """Ask it to end."""
        if self._was_stopped is None:
            self._was_stopped = time.monotonic()
            self._process.send_signal(self._stop)

    def _kill_rest(self) -> None:
        """Its children, too: it leads a process group of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _outcome(self, code: int | None) -> Outcome:
        status: Status = "done" if code == 0 else "failed"
        if self._was_stopped is not None:
            meant = self._may_be_stopped and code in (0, 130)
            status = "done" if meant else "over"
        text = self._log.read_text(encoding="utf-8", errors="replace")
        seconds = round(time.monotonic() - self._began, 1)
        return Outcome(self.name, status, seconds, round(self.limit, 1), code, text[-_TAIL:])
