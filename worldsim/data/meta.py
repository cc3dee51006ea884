"""A dataset's metadata: info.json, the episodes, the statistics, the tasks."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.config import from_dict, to_dict
from worldsim.data import stats
from worldsim.data.layout import (
    CHUNK_FILES,
    DATA_FILE_MB,
    DATA_PATH,
    RAW_PATH,
    VIDEO_FILE_MB,
    VIDEO_PATH,
    Layout,
    chunk_location,
)
from worldsim.data.parquet import read_table, to_indexed_table, to_table, write_table
from worldsim.data.rows import IMAGE, features, tasks_of
from worldsim.data.shards import publish
from worldsim.data.spec import SourceSpec
from worldsim.data.stats import Stats
from worldsim.errors import DataError
from worldsim.untrusted import check_numbers

__all__ = ["EpisodeRow", "Info", "read_episodes", "read_info", "write_episodes", "write_info", "write_stats"]


_LARGEST, _MOST = 2**24, 2**40
_REMEDY = "record it again, or put a copy in its place"
_CHECKSUM = "crc32"
"""Column of the checksum of a file of frames; LeRobot has none."""


@dataclass(frozen=True)
class EpisodeRow:
    """Location of an episode in the files."""

    index: int
    seed: int
    length: int
    first_row: int
    """Its first row in the dataset as a whole."""
    data_file: int
    video_file: int
    """File of its frames, a video or raw frames."""
    first_frame: int
    """Its first frame in that file."""
    meta_file: int
    """The file of this row itself."""
    checksum: int | None = None
    """CRC-32 of the file of its frames; None in datasets of before there was one."""


@dataclass(frozen=True)
class Info:
    """Contents of info.json."""

    spec: SourceSpec
    episodes: int
    frames: int
    is_raw: bool
    """True where frames are raw files, not videos."""


def read_info(layout: Layout) -> Info:
    """Read info.json; raises DataError where it is missing, of another layout or invalid."""
    try:
        if layout.info.stat().st_size > _LARGEST:
            raise DataError(f"info.json must have at most {_LARGEST} bytes", str(layout.info))
        info = json.loads(layout.info.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "give the folder of `worldsim record`; an interrupted recording goes on with --resume"
        raise DataError("a dataset must have meta/info.json", str(layout.root), remedy) from error
    except (ValueError, RecursionError) as error:
        raise DataError("info.json must hold JSON", str(layout.info), str(error)[:200]) from error
    if not isinstance(info, dict) or "worldsim" not in info:
        raise DataError("a dataset must have been written by worldsim", str(layout.root))
    try:
        check_numbers(info["worldsim"])
        spec = from_dict(SourceSpec, info["worldsim"])
        counts = _count(info["total_episodes"]), _count(info["total_frames"])
    except Exception as error:  # what somebody else wrote breaks whatever reads it in many ways
        value = f"{layout.info}: {type(error).__name__}: {error}"[:400]
        raise DataError("info.json must tell of a source, episodes and frames", value, _REMEDY) from error
    return Info(spec, *counts, is_raw="frames_path" in info)


def write_info(layout: Layout, spec: SourceSpec, episodes: list[EpisodeRow], is_raw: bool = False) -> None:
    """Write info.json, which publishes ``episodes``."""
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(episodes),
        "total_frames": sum(row.length for row in episodes),
        "total_tasks": len(tasks_of(spec)),
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": spec.fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": None if is_raw else VIDEO_PATH,
        **({"frames_path": RAW_PATH} if is_raw else {}),
        "features": features(spec, has_video=not is_raw),
        "worldsim": to_dict(spec),
    }
    _write_json(info, layout.info)


def read_episodes(layout: Layout) -> list[EpisodeRow]:
    """Return the episodes that info.json lists, in order; none where there is no info.json yet."""
    if not layout.info.exists():
        return []
    rows: list[EpisodeRow] = []
    info = read_info(layout)
    for file, table in _episode_tables(layout, info.episodes):
        try:
            rows += _to_rows(table, file, _where(info.is_raw))
        except Exception as error:
            value = f"{layout.episodes(file)}: {type(error).__name__}: {error}"[:400]
            raise DataError("a dataset's episodes must say where they lie", value, _REMEDY) from error
    _check_rows(rows, layout)
    return rows


def _check_rows(rows: list[EpisodeRow], layout: Layout) -> None:
    """Raises DataError unless episodes lie one after the other."""
    first = 0
    for number, row in enumerate(rows):
        locations = (row.data_file, row.video_file, row.first_frame)
        if (row.index, row.first_row) != (number, first) or row.length < 1 or min(locations) < 0:
            rule = "a dataset's episodes must lie one after the other"
            raise DataError(rule, f"{layout.episodes(row.meta_file)}: {row}", _REMEDY)
        first += row.length


def write_episodes(
    layout: Layout,
    spec: SourceSpec,
    rows: list[EpisodeRow],
    found: list[dict[str, Stats]],
    tasks: list[list[str]],
    is_raw: bool = False,
) -> None:
    """Write ``rows``, which share one meta file, with the statistics and tasks of each; and the tasks."""
    columns = {"tasks": tasks, **_location_columns(spec, rows, _where(is_raw)), **_stats_columns(found)}
    episodes = to_table(columns)
    publish(layout.episodes(rows[0].meta_file), lambda path: write_table(episodes, path))
    # LeRobot finds tasks by the index that pandas reads.
    known = tasks_of(spec)
    table = to_indexed_table({"task_index": list(range(len(known)))}, known)
    publish(layout.tasks, lambda path: write_table(table, path))


def write_stats(layout: Layout, episodes: int) -> None:
    """Combine the statistics of the first ``episodes`` episodes into stats.json."""
    parts: dict[str, dict[str, list[Any]]] = {}
    for _, table in _episode_tables(layout, episodes):
        for name in (name for name in table.column_names if name.startswith("stats/")):
            _, feature, statistic = name.split("/")
            parts.setdefault(feature, {}).setdefault(statistic, []).extend(table[name].to_pylist())
    combined = {
        feature: stats.combine(
            [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        )
        for feature, columns in parts.items()
    }
    _write_json(combined, layout.stats)


def _episode_tables(layout: Layout, episodes: int) -> Iterator[tuple[int, Any]]:
    file = 0
    while episodes > 0:
        table = read_table(layout.episodes(file))
        yield file, table
        episodes -= table.num_rows
        file += 1


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise DataError(f"a dataset's counts must be whole numbers up to {_MOST}", repr(value)[:40])
    return value


def _where(is_raw: bool) -> str:
    """Return the prefix of the columns that locate an episode's frames."""
    return "frames" if is_raw else f"videos/{IMAGE}"


def _to_rows(table: Any, meta_file: int, where: str) -> list[EpisodeRow]:
    def file_of(row: dict[str, Any], kind: str) -> int:
        return int(row[f"{kind}/chunk_index"] * CHUNK_FILES + row[f"{kind}/file_index"])

    names = [name for name in table.column_names if not name.startswith("stats/") and name != "tasks"]
    return [
        EpisodeRow(
            index=operator.index(row["episode_index"]),
            seed=operator.index(row["seed"]),
            length=operator.index(row["length"]),
            first_row=operator.index(row["dataset_from_index"]),
            data_file=file_of(row, "data"),
            video_file=file_of(row, where),
            first_frame=operator.index(row[f"{where}/from_frame"]),
            meta_file=meta_file,
            checksum=None if (told := row.get(f"{where}/{_CHECKSUM}")) is None else operator.index(told),
        )
        for row in table.select(names).to_pylist()
    ]


def _location_columns(spec: SourceSpec, rows: list[EpisodeRow], where: str) -> dict[str, list[Any]]:
    return {
        "episode_index": [row.index for row in rows],
        "length": [row.length for row in rows],
        "seed": [row.seed for row in rows],
        "dataset_from_index": [row.first_row for row in rows],
        "dataset_to_index": [row.first_row + row.length for row in rows],
        **{f"data/{k}": [chunk_location(row.data_file)[k] for row in rows] for k in chunk_location(0)},
        **{
            f"meta/episodes/{k}": [chunk_location(row.meta_file)[k] for row in rows]
            for k in chunk_location(0)
        },
        **{f"{where}/{k}": [chunk_location(row.video_file)[k] for row in rows] for k in chunk_location(0)},
        f"{where}/{_CHECKSUM}": [row.checksum for row in rows],
        f"{where}/from_frame": [row.first_frame for row in rows],
        f"{where}/from_timestamp": [row.first_frame / spec.fps for row in rows],
        f"{where}/to_timestamp": [(row.first_frame + row.length) / spec.fps for row in rows],
    }


def _stats_columns(found: list[dict[str, Stats]]) -> dict[str, list[Any]]:
    return {
        f"stats/{feature}/{statistic}": [of_episode[feature][statistic] for of_episode in found]
        for feature, statistics in found[0].items()
        for statistic in statistics
    }


def _write_json(value: Any, path: Path) -> None:
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    publish(path, write)
