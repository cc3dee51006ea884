"""Threads that answer clients go before those that dream: they do little, and somebody waits for it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

__all__ = ["hasten", "hastened"]

_NICER = 10
"""So much less nice are they, where the system lets them."""


def hasten() -> None:
    """Let the calling thread go first from now on; without the right to, all stays as it is."""
    if sys.platform == "linux":  # elsewhere a thread's number may be another process's
        _set(_nice() - _NICER)


@contextlib.contextmanager
def hastened() -> Iterator[None]:
    """Let threads that are started meanwhile go first: they begin as nice as who starts them."""
    if sys.platform != "linux":
        yield
        return
    before = _nice()
    _set(before - _NICER)
    try:
        yield
    finally:
        _set(before)


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def _set(nice: int) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
