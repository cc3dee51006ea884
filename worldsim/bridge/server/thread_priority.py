"""Threads that answer clients go before those that dream: they do little, and somebody waits for it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

__all__ = ["raise_priority", "raised_priority"]

_NICE_DECREASE = 10
"""So much less nice are they, where the system lets them."""


def raise_priority() -> None:
    """Let the calling thread go first from now on; without the right to, all stays as it is."""
    if sys.platform == "linux":  # elsewhere a thread's number may be another process's
        _set_nice(_current_nice() - _NICE_DECREASE)


@contextlib.contextmanager
def raised_priority() -> Iterator[None]:
    """Let threads that are started meanwhile go first: they begin as nice as who starts them."""
    if sys.platform != "linux":
        yield
        return
    before = _current_nice()
    _set_nice(before - _NICE_DECREASE)
    try:
        yield
    finally:
        _set_nice(before)


def _current_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def _set_nice(nice: int) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
