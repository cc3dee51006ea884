"""Paths of a dataset: the LeRobot v3 layout. Files are numbered through all chunks."""

from __future__ import annotations

from pathlib import Path

from worldsim.data.rows import IMAGE

__all__ = [
    "CHUNK_FILES",
    "DATA_FILE_MB",
    "DATA_PATH",
    "RAW_PATH",
    "VIDEO_FILE_MB",
    "VIDEO_PATH",
    "Layout",
    "chunk_location",
]

CHUNK_FILES = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
RAW_PATH = "frames/chunk-{chunk_index:03d}/file-{file_index:03d}.npy"
"""Path of raw frames, an episode in each file; LeRobot has no such files."""
_EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def chunk_location(file: int) -> dict[str, int]:
    """Return the chunk of a file, and the file's index in it."""
    return {"chunk_index": file // CHUNK_FILES, "file_index": file % CHUNK_FILES}


class Layout:
    """The paths of the dataset in ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = root / "meta/info.json"
        self.stats = root / "meta/stats.json"
        self.tasks = root / "meta/tasks.parquet"
        self.shards = root / "shards"
        """Episodes that are recorded and not yet gathered."""
        self.cache = root / "cache"
        """Decoded frames; may be removed at any time."""

    def data(self, file: int) -> Path:
        return self.root / DATA_PATH.format(**chunk_location(file))

    def video(self, file: int) -> Path:
        return self.root / VIDEO_PATH.format(video_key=IMAGE, **chunk_location(file))

    def raw(self, file: int) -> Path:
        return self.root / RAW_PATH.format(**chunk_location(file))

    def episodes(self, file: int) -> Path:
        return self.root / _EPISODES_PATH.format(**chunk_location(file))

    def files(self) -> set[Path]:
        """Return all files of rows, frames and episodes, also those that info.json does not list."""
        patterns = ("data/chunk-*/*", "videos/*/chunk-*/*", "frames/chunk-*/*", "meta/episodes/chunk-*/*")
        return {path for pattern in patterns for path in self.root.glob(pattern)}
