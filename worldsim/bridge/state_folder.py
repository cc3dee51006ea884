"""The folder of a journal: one server at a time, for its owner's eyes alone, of one world and one setting."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from worldsim.bridge.log import Record, full_disk
from worldsim.data.lock import locked
from worldsim.errors import BridgeError

__all__ = ["FORMAT", "SPARE", "check_head", "check_room", "claim"]

FORMAT = 2
SPARE = 256 * 2**10
"""Bytes that must be free on the disk before anything is done that has to be written down."""


def claim(folder: Path, stack: contextlib.ExitStack) -> None:
    """Make a folder that nobody else can read, for leases are as good as keys, and hold its lock.

    Raises:
        BridgeError: another process serves from here.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    try:
        stack.enter_context(locked(folder, wait=False))
    except BlockingIOError as error:
        rule = "a state folder serves one server at a time"
        raise BridgeError(rule, str(folder), "end the other one or name another folder") from error
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o600)


def check_head(head: Record, own: Record, path: Path) -> None:
    """Raises BridgeError unless the log at ``path`` begins as one of this server would, with ``own``."""
    if head.get("op") != "journal" or head.get("format") != FORMAT:
        raise BridgeError(f"a journal must be of format {FORMAT}", str(path), "serve with an empty folder")
    if head != own:
        keys = {**head["meta"], **own["meta"], "history": 0}
        old, new = ({**one["meta"], "history": one["history"]} for one in (head, own))
        changed = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
        remedy = "serve as before, or with another folder: its sessions cannot be dreamt again otherwise"
        rule = "a state folder belongs to one world, one setting and one arithmetic"
        raise BridgeError(rule, ", ".join(changed), remedy)


def check_room(folder: Path, size: int) -> None:
    """Raises BridgeError, ``BUSY``, where the disk of ``folder`` has less than ``size`` bytes left."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise full_disk(folder, f"{free} bytes are free, {size} needed")
