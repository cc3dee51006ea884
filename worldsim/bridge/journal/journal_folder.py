"""Folder of a journal: locked by one server, private to its owner, of one world and configuration."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from worldsim.bridge.journal.wal import Record, disk_full_error
from worldsim.errors import BridgeError
from worldsim.utils.file_lock import file_lock

__all__ = ["FORMAT", "RESERVED_BYTES", "check_free_space", "check_header", "lock_folder"]

FORMAT = 3
RESERVED_BYTES = 256 * 2**10
"""Bytes that must be free on the disk before a task that needs a record."""


def lock_folder(folder: Path, stack: contextlib.ExitStack) -> None:
    """Create and lock a private folder; leases in it are as good as keys.

    Raises:
        BridgeError: another process serves from here.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    try:
        stack.enter_context(file_lock(folder, wait=False))
    except BlockingIOError as error:
        rule = "a journal's folder serves one server at a time"
        raise BridgeError(rule, str(folder), "end the other one or name another folder") from error
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o600)


def check_header(head: Record, own: Record, path: Path) -> None:
    """Raise BridgeError unless the header of the log at ``path`` equals ``own``."""
    if head.get("op") != "journal" or head.get("format") != FORMAT:
        raise BridgeError(f"a journal must be of format {FORMAT}", str(path), "serve with an empty folder")
    if head != own:
        keys = {**head["meta"], **own["meta"], "rewind_frames": 0}
        old, new = ({**one["meta"], "rewind_frames": one["rewind_frames"]} for one in (head, own))
        changed = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
        remedy = "serve as before, or with another folder: otherwise its sessions cannot be replayed"
        rule = "a journal's folder belongs to one world, one setting and one arithmetic"
        raise BridgeError(rule, ", ".join(changed), remedy)


def check_free_space(folder: Path, size: int) -> None:
    """Raise ``UNAVAILABLE`` if the disk of ``folder`` has less than ``size`` bytes left."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise disk_full_error(folder, f"{free} bytes are free, {size} needed")
