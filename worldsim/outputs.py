"""Places that results go to: tried before the work, and never overwritten unasked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from worldsim.errors import StorageError

__all__ = ["claim_file", "claim_folder", "free_paths", "try_folder"]

_PROBE = 64 * 1024
"""Bytes that are written to see whether a folder takes any."""


def claim_file(path: Path, *, replace: bool, parents: bool = True, remedy: str = "add --force") -> None:
    """Make sure that ``path`` can be written later on.

    Args:
        path: the file.
        replace: whether a file that is there may be replaced.
        parents: whether folders above it are made.
        remedy: what allows to replace it.

    Raises:
        StorageError: something is there that must stay, or the folder takes no files.
    """
    path = Path(path)
    if path.is_dir():
        raise StorageError("a file must not have the name of a folder", str(path), "choose another name")
    if path.exists() and not path.is_file():
        return  # a device or a pipe: what it takes shows when it is written
    if path.exists() and not replace:
        raise _taken(path, remedy)
    try_folder(path.parent, parents=parents)


def claim_folder(
    path: Path, holds: Iterable[str], *, replace: bool, remedy: str = "add --force"
) -> None:
    """Make sure that results can be written into the folder ``path``, which is made if need be.

    Args:
        path: the folder.
        holds: names in it that are results of an earlier run.
        replace: whether these may be replaced.
        remedy: what allows to replace them.

    Raises:
        StorageError: there are such results, or the folder takes no files.
    """
    path = Path(path)
    found = [path / name for name in holds if (path / name).exists()]
    if found and not replace:
        raise _taken(found[0], remedy)
    try_folder(path)


def try_folder(path: Path, *, parents: bool = True) -> None:
    """Make the folder ``path`` if need be, and write a little into it to see whether it takes files.

    Raises:
        StorageError: it cannot be made or written to, or its disk is full.
    """
    try:
        if parents:
            path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(_PROBE))
            file.flush()
    except OSError as error:
        raise StorageError.of(error, path) from error


def free_paths(stem: Path, *endings: str) -> list[Path]:
    """``stem`` with each ending, or ``stem-1``, ``stem-2``, ... where one of these files is there already."""
    number, paths = 0, [Path(f"{stem}{ending}") for ending in endings]
    while any(path.exists() for path in paths):
        number += 1
        paths = [Path(f"{stem}-{number}{ending}") for ending in endings]
    return paths


def _taken(path: Path, remedy: str) -> StorageError:
    rule = "results must not be overwritten unasked"
    return StorageError(rule, str(path), f"{remedy}, or choose another place")
