"""Temporary folders that end with their process; what a kill -9 leaves is removed by the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
import weakref
from pathlib import Path

__all__ = ["ScratchFolder"]

_PREFIX = "worldsim-tmp-"
_YOUNG = 60.0
"""Seconds before a folder without a lock counts as left behind: its process may not have locked it yet."""


class ScratchFolder:
    """A temporary folder of this process, locked while it is used.

    Args:
        kind: part of its name, for people who look.
    """

    def __init__(self, kind: str) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-"))
        held = _open(self.path)
        fcntl.flock(held, fcntl.LOCK_EX)
        self._finalizer = weakref.finalize(self, _remove, self.path, held)

    def close(self) -> None:
        """Remove the folder; further calls do nothing."""
        self._finalizer()


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove(path: Path, held: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(held)


def _sweep(folder: Path) -> None:
    """Remove this user's folders whose processes are gone."""
    for path in folder.glob(f"{_PREFIX}*"):
        try:
            found = path.lstat()
            is_old = time.time() - found.st_mtime > _YOUNG
            if not (stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and is_old):
                continue
            held = _open(path)
        except OSError:  # gone meanwhile
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(held)
