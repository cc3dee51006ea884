"""Packing of results: at most eight flat files of at most 15 MiB, complete at any moment.

``report.json`` tells what was done, ``results.tar.gz`` has logs, timings and pictures, and each world is one
tar archive in numbered pieces, ``<name>.tar.00`` and so on. A world's own sums, in it, vouch for it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from worldsim.errors import DataError

__all__ = ["FILES", "PIECE", "REPORT", "RESULTS", "Piece", "join_pieces", "pack_results", "pack_world", "put"]

PIECE = 15 * 2**20
"""Bytes of the largest file."""
FILES = 8
"""Files that may come back, the report and the results among them."""
WORLDS, LOGS = 55 * 2**20, 8 * 2**20
"""Bytes of all worlds together, and of the results: 64 MiB come back."""
REPORT, RESULTS = "report.json", "results.tar.gz"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a world's archive."""

    file: str
    bytes: int
    sha256: str


def put(path: Path, data: bytes) -> None:
    """Write a file in one move: who is killed meanwhile leaves the one before."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def pack_world(folder: Path, out: Path, name: str) -> list[Piece]:
    """Put a world's folder into ``out`` in pieces; those of an earlier and larger one are removed.

    Raises:
        DataError: with it there would be more files or more bytes than may come back; nothing is written.
    """
    data = _tar(folder, name)
    parts = [data[first : first + PIECE] for first in range(0, len(data), PIECE)]
    files = {f"{name}.tar.{i:02}": part for i, part in enumerate(parts)}
    others = [path for path in out.iterdir() if path.name not in files and not _is_of(path, name)]
    others = [path for path in others if path.name not in (REPORT, RESULTS) and not path.name.startswith(".")]
    if len(files) + len(others) + 2 > FILES:
        rule = f"worlds must come back in at most {FILES - 2} pieces of {PIECE} bytes"
        raise DataError(rule, len(files) + len(others), "train a smaller recipe, or fewer worlds")
    whole = len(data) + sum(path.stat().st_size for path in others)
    if whole > WORLDS:
        raise DataError(f"worlds must come back in {WORLDS} bytes", whole, "train fewer or smaller ones")
    for file, part in files.items():
        put(out / file, part)
    for path in out.iterdir():
        if _is_of(path, name) and path.name not in files:
            path.unlink()
    return [Piece(file, len(part), hashlib.sha256(part).hexdigest()) for file, part in files.items()]


def pack_results(files: Iterable[tuple[Path, str]], out: Path) -> list[str]:
    """Put files, each with its name in the archive, into ``results.tar.gz``; the names that had no room."""
    kept, left_out = list(files), []
    while True:
        data = _tar_gz(kept)
        if len(data) <= LOGS:
            put(out / RESULTS, data)
            return left_out
        largest = max(kept, key=lambda pair: pair[0].stat().st_size)
        kept.remove(largest)
        left_out.append(largest[1])


def join_pieces(folder: Path) -> dict[str, bytes]:
    """The archives that lie in pieces in ``folder``, by the worlds' names.

    Raises:
        DataError: a piece in the middle is missing.
    """
    names = sorted({path.name.rpartition(".tar.")[0] for path in folder.glob("*.tar.[0-9][0-9]")})
    joined = {}
    for name in names:
        pieces = sorted(folder.glob(f"{name}.tar.[0-9][0-9]"))
        numbers = [int(piece.name.rpartition(".")[2]) for piece in pieces]
        if numbers != list(range(len(pieces))):
            raise DataError("a world's pieces must all be there", [piece.name for piece in pieces])
        joined[name] = b"".join(piece.read_bytes() for piece in pieces)
    return joined


def _is_of(path: Path, name: str) -> bool:
    return path.name.rpartition(".tar.")[0] == name


def _tar(folder: Path, name: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.add(folder, name)
    return target.getvalue()


def _tar_gz(files: Iterable[tuple[Path, str]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=6) as archive:
        for path, name in files:
            archive.add(path, name)
    return target.getvalue()
