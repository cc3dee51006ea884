"""Checks of output files and folders before the work starts; nothing is overwritten unless asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from worldsim.errors import StorageError

__all__ = ["check_writable", "claim_file", "claim_folder", "unused_paths"]

_PROBE = 64 * 1024
"""Bytes written to test whether a folder is writable."""


def claim_file(path: Path, *, replace: bool, parents: bool = True, remedy: str = "add --force") -> None:
    """Check that ``path`` can be written later.

    Args:
        path: the file.
        replace: whether an existing file may be replaced.
        parents: whether to make the folders above it.
        remedy: advice in the error, e.g. the option that allows replacing.

    Raises:
        StorageError: the file exists and must stay, or the folder is not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise StorageError("a file must not have the name of a folder", str(path), "choose another name")
    if path.exists() and not path.is_file():
        return  # a device or a pipe cannot be tested without writing
    if path.exists() and not replace:
        raise _taken(path, remedy)
    check_writable(path.parent, parents=parents)


def claim_folder(path: Path, holds: Iterable[str], *, replace: bool, remedy: str = "add --force") -> None:
    """Check that results can be written into the folder ``path``; make it if it is missing.

    Args:
        path: the folder.
        holds: names of result files, which an earlier run may have left.
        replace: whether these may be replaced.
        remedy: advice in the error, e.g. the option that allows replacing.

    Raises:
        StorageError: there are such results, or the folder is not writable.
    """
    path = Path(path)
    found = [path / name for name in holds if (path / name).exists()]
    if found and not replace:
        raise _taken(found[0], remedy)
    check_writable(path)


def check_writable(path: Path, *, parents: bool = True) -> None:
    """Make the folder ``path`` if it is missing, and test that it is writable.

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


def unused_paths(stem: Path, *endings: str) -> list[Path]:
    """``stem`` with each ending, or ``stem-1``, ``stem-2``, ... if one of these files exists already."""
    number, paths = 0, [Path(f"{stem}{ending}") for ending in endings]
    while any(path.exists() for path in paths):
        number += 1
        paths = [Path(f"{stem}-{number}{ending}") for ending in endings]
    return paths


def _taken(path: Path, remedy: str) -> StorageError:
    rule = "results must not be overwritten unasked"
    return StorageError(rule, str(path), f"{remedy}, or choose another place")
