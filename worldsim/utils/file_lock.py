"""Locks between processes; a lock ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["file_lock"]


@contextlib.contextmanager
def file_lock(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of ``folder``, which is made if need be.

    Raises:
        BlockingIOError: another process holds it and ``wait`` is not set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)  # the folder itself: a file in it could be deleted
    try:
        fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)
