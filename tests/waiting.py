"""Waits with an end: a test that waits for another thread or process fails instead of hanging."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

PATIENCE = 30.0
"""Seconds: far more than anything here takes, also on a busy machine."""


def wait_until(condition: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
    """Return once ``condition()`` is true; AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.01)


def members(session: int) -> list[int]:
    """Processes of a session, as ``start_new_session`` makes one, that are still there."""
    call = ["ps", "-o", "pid=", "-s", str(session)]
    found = subprocess.run(call, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return [int(pid) for pid in found.stdout.split()]
