"""Cache of decoded frames: beside the dataset, or in the user's cache folder if that is read-only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.data.layout import Layout
from worldsim.errors import StorageError
from worldsim.utils.output_paths import check_writable

__all__ = ["find_cache", "make_array", "user_cache"]


def user_cache() -> Path:
    """The user's cache folder: ``worldsim`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldsim"


def find_cache(layout: Layout, name: str, given: Path | None = None) -> Path:
    """The path of the file ``name`` in a dataset's cache: where it is already, else where it can be written.

    Args:
        layout: of the dataset.
        name: of the file.
        given: folder for the caches of all datasets; by default the cache lies beside the dataset, or in the
            user's cache folder where the dataset's cannot be written.

    Raises:
        StorageError: none of these folders can be written.
    """
    root = layout.root.resolve()
    own = f"{root.name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
    folders = [layout.cache, user_cache() / own] if given is None else [given / own]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    for folder in folders[:-1]:
        try:
            check_writable(folder)
        except StorageError:
            continue
        return folder / name
    check_writable(folders[-1])
    return folders[-1] / name


def make_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new ``uint8`` array in the file ``path``, mapped into memory, with its room on the disk set aside.

    Raises:
        StorageError: there is no room. Without this check, writing to a full disk would kill the process.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StorageError.of(error, path) from error
    return array
