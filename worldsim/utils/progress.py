"""Progress of a run: a bar on a terminal, a plain line every half minute in a log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressReporter:
    """Reports progress on stderr; used in a ``with`` statement.

    Args:
        title: name of the run.
        total: amount of work, in any unit.
        every: seconds between the lines of a log.
    """

    def __init__(self, title: str, total: float, every: float = 30.0) -> None:
        self._title, self._total, self._every = title, total, every
        console = Console(stderr=True)
        self._bar = self._bar_on(console) if console.is_terminal else None
        self._began = self._printed_at = time.monotonic()
        self._done = self._first = 0.0
        self._text = ""
        self._is_pending = False

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._is_pending:
            self._print()

    def begin(self, done: float) -> None:
        """Start from ``done`` instead of 0; work of an earlier run does not count for the speed."""
        self._done = self._first = done

    def update(self, done: float, text: str = "") -> None:
        """Report that ``done`` of the total is done, with ``text`` beside it."""
        self._done, self._text, self._is_pending = done, text, True
        if self._bar is not None:
            self._bar.start()  # the first call shows the bar; later calls do nothing
            self._bar.update(self._bar.task_ids[0], completed=done, text=text)
        elif time.monotonic() - self._printed_at >= self._every:
            self._print()

    def _bar_on(self, console: Console) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=console)
        bar.add_task(self._title, total=self._total, text="")
        return bar

    def _print(self) -> None:
        self._printed_at, self._is_pending = time.monotonic(), False
        took = self._printed_at - self._began
        speed = (self._done - self._first) / max(took, 1e-9)
        parts = [f"{self._title} {min(self._done / max(self._total, 1e-9), 1.0):.0%}", f"{_clock(took)} gone"]
        if speed > 0:
            parts.append(f"{_clock(max(0.0, self._total - self._done) / speed)} to go")
        print(", ".join(parts) + (f": {self._text}" if self._text else ""), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
