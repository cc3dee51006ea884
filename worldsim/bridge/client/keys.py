"""CURVE keys of a client."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import zmq

from worldsim.errors import BridgeError

__all__ = ["ClientKeys"]


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """CURVE keys, Z85 strings of 40 characters each.

    Raises:
        BridgeError: one of another length.
    """

    server: str
    """The server's public key."""
    secret: str
    """This client's own."""

    def __post_init__(self) -> None:
        for name, key in (("server", self.server), ("secret", self.secret)):
            if len(key) != 40:
                raise BridgeError(f"the {name} key must have 40 characters", f"{len(key)} characters")

    def __repr__(self) -> str:
        return f"ClientKeys(server={self.server!r}, secret=...)"

    @classmethod
    def read(cls, server: str | os.PathLike[str], secret: str | os.PathLike[str]) -> ClientKeys:
        """Keys from files that ``worldsim keys new`` writes: the server's public one, one's own secret one.

        Raises:
            BridgeError: a file that cannot be read or holds no key.
        """
        return cls(_read(Path(server)), _read(Path(secret)))

    def apply_to(self, socket: zmq.Socket[bytes]) -> None:
        """Configure an unconnected socket for CURVE with these keys."""
        secret = self.secret.encode()
        socket.curve_serverkey = self.server.encode()
        socket.curve_secretkey = secret
        socket.curve_publickey = zmq.curve_public(secret)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        rule, remedy = "a key must be a file of one line", "make it with `worldsim keys new`"
        raise BridgeError(rule, f"{path}: {error}", remedy) from error
