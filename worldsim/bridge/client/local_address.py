"""Local addresses: the default one of a world, and the owner of a socket."""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

from worldsim.errors import BridgeError

__all__ = ["check_owner", "default_address", "is_own"]


def default_address(world: str) -> str:
    """Return the default address of a world: a socket in a private folder of the user.

    Raises:
        BridgeError: the folder is another user's, or others may write to it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime or Path(tempfile.gettempdir()) / f"worldsim-{os.geteuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        rule, remedy = "the folder of local servers must be its user's alone", "name an address"
        raise BridgeError(rule, str(folder), remedy)
    return f"ipc://{folder}/worldsim-{world}.sock"


def check_owner(address: str) -> None:
    """Refuse an ``ipc://`` address of another user's process; root is accepted.

    Raises:
        BridgeError: it does. Nothing has been said to it.
    """
    kind, _, path = address.partition("://")
    if kind != "ipc":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError:
            return  # nobody is there yet
        if not is_own(probe):
            rule, remedy = "a local server must be one's own or root's", "name another address, or give keys"
            raise BridgeError(rule, address, remedy, code="PERMISSION_DENIED")


def is_own(sock: socket.socket) -> bool:
    """Return True if the peer process of a local socket belongs to this user or to root."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the file's mode says so
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", raw)[1] in (0, os.geteuid())
