"""Gather shards into the large files of a dataset.

Files are only ever added, and info.json is replaced last: a dataset is at any moment what its info.json
says. What a crash leaves beyond that is removed by the next gathering.
"""

from __future__ import annotations

import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.data.layout import DATA_FILE_MB, VIDEO_FILE_MB, Layout
from worldsim.data.meta import EpisodeRow, read_episodes, write_episodes, write_info, write_stats
from worldsim.data.parquet import join_tables, read_table, write_table
from worldsim.data.rows import embedded_stats, tasks_of
from worldsim.data.shards import Shard, checksum, publish
from worldsim.data.spec import SourceSpec
from worldsim.data.stats import of_values
from worldsim.data.video import join

__all__ = ["gather"]

_MB = 2**20


def gather(root: Path, spec: SourceSpec, shards: list[Shard]) -> None:
    """Add ``shards``, which go on from the last episode of the dataset in ``root``, and remove them."""
    layout = Layout(root)
    known = read_episodes(layout)
    for stray in layout.files() - _referenced_files(layout, known):
        stray.unlink()
    if shards:
        is_raw = shards[0].is_raw
        added = _add(layout, spec, known, shards)
        write_stats(layout, len(known) + len(added))
        write_info(layout, spec, known + added, is_raw)
    for shard in shards:
        shard.remove()


def _referenced_files(layout: Layout, known: list[EpisodeRow]) -> set[Path]:
    paths = set()
    for row in known:
        paths |= {layout.video(row.video_file), layout.raw(row.video_file)}  # whichever there is
        paths |= {layout.data(row.data_file), layout.episodes(row.meta_file)}
    return paths


def _add(layout: Layout, spec: SourceSpec, known: list[EpisodeRow], shards: list[Shard]) -> list[EpisodeRow]:
    with ThreadPoolExecutor() as pool:
        tables = list(pool.map(read_table, (shard.table for shard in shards)))
    next_row = known[-1].first_row + known[-1].length if known else 0
    first_rows = list(itertools.accumulate((table.num_rows for table in tables), initial=next_row))[:-1]
    numbered = [_with_index(table, first) for table, first in zip(tables, first_rows, strict=True)]
    data_files = _write_data(layout, numbered, known[-1].data_file + 1 if known else 0)
    is_raw, file = shards[0].is_raw, known[-1].video_file + 1 if known else 0
    videos = _link_raw(layout, shards, file) if is_raw else _write_videos(layout, spec, shards, tables, file)
    sums = _checksums(layout, {file for file, _ in videos}, is_raw)
    rows = [
        EpisodeRow(
            index=shard.number,
            seed=table["seed"][0].as_py(),
            length=table.num_rows,
            first_row=first_row,
            data_file=data_file,
            video_file=video_file,
            first_frame=first_frame,
            meta_file=known[-1].meta_file + 1 if known else 0,
            checksum=sums[video_file],
        )
        for shard, table, first_row, data_file, (video_file, first_frame) in zip(
            shards, tables, first_rows, data_files, videos, strict=True
        )
    ]
    found = [
        {**embedded_stats(table), "index": of_values(np.arange(row.first_row, row.first_row + row.length))}
        for table, row in zip(tables, rows, strict=True)
    ]
    texts = tasks_of(spec)
    tasks = [[texts[number] for number in np.unique(table["task_index"].to_numpy())] for table in tables]
    write_episodes(layout, spec, rows, found, tasks, is_raw)
    return rows


def _checksums(layout: Layout, files: set[int], is_raw: bool) -> dict[int, int]:
    """The checksum of each file of frames."""
    order = sorted(files)
    paths = [layout.raw(file) if is_raw else layout.video(file) for file in order]
    with ThreadPoolExecutor() as pool:
        return dict(zip(order, pool.map(checksum, paths), strict=True))


def _with_index(table: Any, first: int) -> Any:
    return table.append_column("index", [np.arange(first, first + table.num_rows, dtype=np.int64)])


def _write_data(layout: Layout, tables: list[Any], file: int) -> list[int]:
    """The data file of each table."""
    files: list[int] = []
    for group in _groups([table.nbytes for table in tables], DATA_FILE_MB * _MB):
        rows = join_tables([tables[i] for i in group])
        publish(layout.data(file), partial(write_table, rows))
        files += [file] * len(group)
        file += 1
    return files


def _write_videos(
    layout: Layout, spec: SourceSpec, shards: list[Shard], tables: list[Any], file: int
) -> list[tuple[int, int]]:
    """The video file of each shard, and the shard's first frame in it."""
    locations: list[tuple[int, int]] = []
    for group in _groups([shard.video.stat().st_size for shard in shards], VIDEO_FILE_MB * _MB):
        publish(layout.video(file), partial(join, [shards[i].video for i in group], spec.fps))
        starts = itertools.accumulate((tables[i].num_rows for i in group[:-1]), initial=0)
        locations += [(file, start) for start in starts]
        file += 1
    return locations


def _link_raw(layout: Layout, shards: list[Shard], file: int) -> list[tuple[int, int]]:
    """Put each shard's frames into a file of the dataset; as of ``_write_videos``."""
    for n, shard in enumerate(shards, start=file):
        publish(layout.raw(n), partial(_link, shard.raw))
    return [(n, 0) for n in range(file, file + len(shards))]


def _link(old: Path, new: Path) -> None:
    """A second name for a file, which the shard's removal leaves; a copy where files have only one."""
    new.unlink(missing_ok=True)
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def _groups(sizes: list[int], limit: int) -> list[list[int]]:
    """Consecutive indices, each group's sizes adding up to at most ``limit`` unless one alone is larger."""
    groups: list[list[int]] = []
    total = 0
    for index, size in enumerate(sizes):
        if not groups or total + size > limit:
            groups.append([])
            total = 0
        groups[-1].append(index)
        total += size
    return groups
