"""Shards: one recorded episode on disk, its frames and a table that is published after them.

A shard exists once its table does. Both files are written beside their place, synced and renamed, so that a
crash at any moment leaves whole shards and at most some files to sweep up.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldsim.data.episodes import EpisodeArrays
from worldsim.data.parquet import read_table, write_table
from worldsim.data.raw import write_raw
from worldsim.data.rows import to_rows
from worldsim.data.spec import SourceSpec
from worldsim.data.video import CodecName, encode

__all__ = ["Shard", "checksum", "find_shards", "publish", "sweep", "write_shard"]

_TEMPORARY = ".tmp"
_PART = 2**20
"""Bytes of a file that are read at once."""


@dataclass(frozen=True)
class Shard:
    """One recorded episode on disk, before it is gathered into the dataset's large files."""

    folder: Path
    number: int

    @property
    def video(self) -> Path:
        return self.folder / f"episode-{self.number:06d}.mp4"

    @property
    def raw(self) -> Path:
        """The frames as they are, in place of the video."""
        return self.folder / f"episode-{self.number:06d}.npy"

    @property
    def is_raw(self) -> bool:
        """True where it has raw frames and no video."""
        return self.raw.exists()

    @property
    def table(self) -> Path:
        return self.folder / f"episode-{self.number:06d}.parquet"

    @property
    def length(self) -> int:
        """Number of rows."""
        return int(read_table(self.table, columns=["frame_index"]).num_rows)

    def remove(self) -> None:
        """Remove it, the table first: frames without one are swept up."""
        self.table.unlink(missing_ok=True)
        self.video.unlink(missing_ok=True)
        self.raw.unlink(missing_ok=True)


def write_shard(shard: Shard, episode: EpisodeArrays, spec: SourceSpec, codec: CodecName) -> None:
    """Write an episode; it exists for readers only once it is whole."""
    rows = to_rows(episode, spec, shard.number, has_video=codec != "raw")
    if codec == "raw":
        publish(shard.raw, lambda path: write_raw(path, episode.frames))
    else:
        publish(shard.video, lambda path: encode(path, episode.frames, spec.fps, codec))
    publish(shard.table, lambda path: write_table(rows, path))


def find_shards(folder: Path) -> dict[int, Shard]:
    """The whole shards in ``folder``, by episode number, in order."""
    numbers = sorted(int(path.stem.split("-")[1]) for path in folder.glob("episode-*.parquet"))
    return {number: Shard(folder, number) for number in numbers}


def sweep(folder: Path) -> None:
    """Remove what a crash left: temporary files, and frames whose table was never written."""
    whole = {path for shard in find_shards(folder).values() for path in (shard.video, shard.raw)}
    for path in folder.glob("*"):
        if path.suffix == _TEMPORARY or (path.suffix in (".mp4", ".npy") and path not in whole):
            path.unlink(missing_ok=True)


def checksum(path: Path) -> int:
    """CRC-32 of a file. Several threads may compute some at once."""
    value = 0
    with path.open("rb") as file:
        while part := file.read(_PART):
            value = zlib.crc32(part, value)
    return value


def publish(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a temporary file, sync it, and put it in place of ``path`` in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{_TEMPORARY}")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name must outlive a power cut, too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
