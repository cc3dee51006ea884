"""CURVE keys in files, one line of Z85 each, and ``worldsim keys new``, which makes them.

<folder>/
  server.secret, server.public   the server's pair; clients are given the public one
  clients/NAME.public            an authorized client
  NAME.secret                    the client's own: carry it to the client's machine and delete it here
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from worldsim.errors import BridgeError
from worldsim.options import Parser
from worldsim.utils.output_paths import check_writable

__all__ = ["AuthorizedKeys", "ServerKeys", "add_client", "main", "read_clients"]

_UNSTABLE_NS = 1_000_000_000
"""Age in nanoseconds below which a folder's change time is not trusted."""
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY_PATTERN = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """Key pair of the server, Z85 of 40 characters each."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"ServerKeys(public={self.public!r}, secret=...)"

    @classmethod
    def read(cls, folder: Path) -> ServerKeys:
        """Read the pair in ``folder``.

        Raises:
            BridgeError: there is none, it is no key, or others may read it.
        """
        path = Path(folder) / "server.secret"
        secret = _read_key(path)
        if path.stat().st_mode & 0o077:
            rule = "a secret key must be readable by its owner only"
            raise BridgeError(rule, f"{path}: {path.stat().st_mode & 0o777:o}", f"chmod 600 {path}")
        return cls(zmq.curve_public(secret.encode()).decode(), secret)


class AuthorizedKeys:
    """Authorized client keys: the current files in ``folder``/clients.

    A key that is added is authorized at once; one that is deleted is refused from its next connection on. The
    files are read again only after the folder has changed, so a flood of unknown keys costs little.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._names: dict[str, str] = {}
        self._folder_state: tuple[int, ...] = ()

    def is_authorized(self, key: str) -> bool:
        """Return True if a public key, Z85, is authorized."""
        clients = self._folder / "clients"
        try:
            state = clients.stat()
        except OSError:
            return False
        seen = (state.st_dev, state.st_ino, state.st_mtime_ns)
        if seen != self._folder_state:
            self._names = read_clients(self._folder)
            # A folder that has just changed may change again within the same tick of its clock.
            self._folder_state = seen if time.time_ns() - state.st_mtime_ns > _UNSTABLE_NS else ()
        name = self._names.get(key)
        return name is not None and _contains_key(clients / f"{name}.public", key)


def add_client(folder: Path, name: str) -> Path:
    """Make a pair for a client, and the server's if there is none. Return the client's secret file.

    Raises:
        BridgeError: a name that is no file name, or taken.
    """
    folder = Path(folder)
    if not _NAME_PATTERN.fullmatch(name) or name == "server":
        rule = "a client's name must be 1 to 64 letters, digits, '_', '.' or '-', and not 'server'"
        raise BridgeError(rule, name)
    if not (folder / "server.secret").exists():
        _write_pair(folder / "server.public", folder / "server.secret")
    public, secret = folder / "clients" / f"{name}.public", folder / f"{name}.secret"
    for path in (public, secret):
        if path.exists():
            raise BridgeError("a client's name must be new", name, f"delete {path} or choose another name")
    _write_pair(public, secret)
    return secret


def read_clients(folder: Path) -> dict[str, str]:
    """Return Z85 public key -> name of all authorized clients; files without a key are skipped."""
    found = {}
    for path in sorted((Path(folder) / "clients").glob("*.public")):
        try:
            found[_read_key(path)] = path.stem
        except BridgeError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """``worldsim keys new NAME --dir DIR``."""
    parser = Parser(prog="worldsim keys", description="Make keys for programs on other machines.")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="make a key pair for a client, and the server's if there is none")
    new.add_argument("name", help="name of the client, e.g. laptop")
    new.add_argument(
        "--dir", type=Path, required=True, help="the folder that `worldsim serve --keys` is given"
    )
    arguments = parser.parse_args(argv)
    arguments.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_writable(arguments.dir)
    secret = add_client(arguments.dir, arguments.name)
    print(f"{arguments.name} is authorized, also by a server that runs already.")
    print(f"Copy {arguments.dir / 'server.public'} and {secret} to its machine, then delete {secret} here.")
    return 0


def _write_pair(public: Path, secret: Path) -> None:
    """The secret first: a public file in place is a client that may come in."""
    keys = zmq.curve_keypair()
    for path, key in ((secret, keys[1]), (public, keys[0])):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        building = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key + b"\n")
        building.rename(path)


def _contains_key(path: Path, key: str) -> bool:
    """Return True if a file holds the key."""
    try:
        return _read_key(path) == key
    except BridgeError:
        return False


def _read_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        rule = "a key must be a file of one line"
        raise BridgeError(rule, f"{path}: {error}", "make it with `worldsim keys new`") from error
    if not _KEY_PATTERN.fullmatch(key):
        rule = "a key must be 40 characters of Z85"
        raise BridgeError(rule, f"{path}: {len(key)} characters", "make it with `worldsim keys new`")
    return key
