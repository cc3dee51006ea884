"""Scheduling priority of threads that share the interpreter, where the system permits it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

__all__ = ["raise_priority"]

_NICE_DECREASE = 10
"""Decrease in nice value, if permitted."""


def raise_priority() -> None:
    """Raise the priority of the calling thread; no effect without the permission."""
    if sys.platform == "linux":  # elsewhere a thread's number may be another process's
        _set_nice(_current_nice() - _NICE_DECREASE)


def _current_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def _set_nice(nice: int) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
