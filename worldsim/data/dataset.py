"""A recorded dataset, read by episode."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from worldsim.data.episodes import EpisodeArrays
from worldsim.data.layout import Layout
from worldsim.data.meta import EpisodeRow, read_episodes, read_info
from worldsim.data.parquet import read_table
from worldsim.data.raw import read_raw
from worldsim.data.rows import from_rows, poses_of
from worldsim.data.shards import checksum
from worldsim.data.video import decode
from worldsim.errors import DataError

__all__ = ["Dataset", "Episode", "Split", "split_of"]

Split = Literal["train", "held_out"]
_HELD_OUT_EVERY = 20


def split_of(seed: int) -> Split:
    """Episodes whose seed is a multiple of 20 are never trained on."""
    return "held_out" if seed % _HELD_OUT_EVERY == 0 else "train"


@dataclass(frozen=True)
class Episode:
    """Index entry of an episode."""

    index: int
    length: int
    seed: int
    split: Split


class Dataset:
    """A dataset in the LeRobot v3 layout, as ``worldsim record`` writes it.

    Args:
        path: its folder.

    Raises:
        DataError: there is no dataset, or one that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.layout = Layout(Path(path))
        info = read_info(self.layout)
        self.spec = info.spec
        self.is_raw = info.is_raw
        """True where frames are raw and need no decoding, see :meth:`mapped`."""
        self._rows = read_episodes(self.layout)
        self.episodes = [Episode(row.index, row.length, row.seed, split_of(row.seed)) for row in self._rows]
        # Neighbouring episodes share a file: the last one stays in memory.
        self._first_rows: dict[int, int] = {}
        for row in self._rows:
            self._first_rows.setdefault(row.data_file, row.first_row)
        self._data_file = functools.lru_cache(maxsize=1)(lambda file: read_table(self.layout.data(file)))
        self._lock = Lock()
        self._whole: set[Path] = set()
        """Files of frames whose checksums were found right."""

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    def episode(self, index: int) -> EpisodeArrays:
        """Read episode ``index``, frames and all."""
        rows = self.rows(index)
        frames = np.empty((len(rows), *self.spec.size, 3), dtype=np.uint8)
        for t, frame in enumerate(self.frames(index)):
            frames[t] = frame
        return replace(rows, frames=frames)

    def rows(self, index: int) -> EpisodeArrays:
        """Read episode ``index`` without decoding its video: its frames have the shape [T, 0, 0, 3]."""
        row = self._row(index)
        table = self._table(row)
        try:
            rows = from_rows(table, self.spec)
        except Exception as error:
            value = f"{self.layout.data(row.data_file)}: {type(error).__name__}: {error}"[:400]
            raise DataError("an episode's rows must have the columns of their source", value) from error
        columns = self.spec.control_space.size
        if rows.controls.shape != (row.length, columns) or not np.isfinite(rows.controls).all():
            rule = f"episode {index} must have {row.length} rows of {columns} finite controls"
            raise DataError(rule, list(rows.controls.shape), "record it again")
        return rows

    def frames(self, index: int) -> Iterator[np.ndarray]:
        """Read the frames of episode ``index``, each ``uint8 [H, W, 3]``, one after the other."""
        row = self._row(index)
        if self.is_raw:
            return iter(self.mapped(index))
        return self._decoded(row)

    def mapped(self, index: int) -> np.ndarray:
        """``uint8 [T, H, W, 3]``: the frames of episode ``index``, mapped from disk.

        Raises:
            DataError: frames are kept as videos.
        """
        if not self.is_raw:
            raise DataError("only raw frames can be mapped", str(self.layout.root), "read them with frames()")
        row = self._row(index)
        path = self.layout.raw(row.video_file)
        frames = read_raw(path, row.length)
        if frames.shape[1:] != (*self.spec.size, 3):
            rule = f"frames must be {self.spec.size[0]} x {self.spec.size[1]}"
            raise DataError(rule, f"{path}: {list(frames.shape)}", "record it again")
        self._check_file(path, row)
        return frames

    def poses(self) -> np.ndarray:
        """``float64 [N, 4, 4]``: the poses of all frames, in order. Raises DataError where there are none."""
        if not self.spec.has_pose:
            raise DataError("a source must have poses", self.spec.name)
        return np.concatenate([poses_of(self._table(row)) for row in self._rows])

    def _decoded(self, row: EpisodeRow) -> Iterator[np.ndarray]:
        path = self.layout.video(row.video_file)
        self._check_file(path, row)
        for frame in decode(path, row.first_frame, row.length, self.spec.fps):
            if frame.shape != (*self.spec.size, 3):
                rule = f"frames must be {self.spec.size[0]} x {self.spec.size[1]}"
                raise DataError(rule, f"{path}: {list(frame.shape)}", "record it again")
            yield frame

    def _check_file(self, path: Path, row: EpisodeRow) -> None:
        """Check a file of frames against its checksum, the first time it is read.

        Raises:
            DataError: it was changed since it was recorded.
        """
        with self._lock:
            if row.checksum is None or path in self._whole:
                return
            try:
                found = checksum(path)
            except OSError as error:
                raise DataError("a file of frames must be readable", str(path), str(error)) from error
            if found != row.checksum:
                rule = "a file of frames must be as it was recorded"
                remedy = "put a copy in its place, or record it again"
                raise DataError(rule, f"{path}: CRC-32 {found:08x}, not {row.checksum:08x}", remedy)
            self._whole.add(path)

    def _row(self, index: int) -> EpisodeRow:
        if not 0 <= index < len(self._rows):
            raise DataError(f"an episode's index must be in 0..{len(self._rows) - 1}", index)
        return self._rows[index]

    def _table(self, row: EpisodeRow) -> Any:
        first = self._first_rows[row.data_file]
        return self._data_file(row.data_file).slice(row.first_row - first, row.length)
