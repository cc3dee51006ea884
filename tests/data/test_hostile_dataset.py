"""Datasets that no recording wrote: one DataError, whatever is wrong with them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.collectors import SPEC, make_episode
from tests.data.test_dataset import write
from worldsim.data.dataset import Dataset
from worldsim.data.gather import gather
from worldsim.data.parquet import read_table
from worldsim.data.shards import Shard, write_shard
from worldsim.data.video import CodecName
from worldsim.errors import DataError

INFO: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [],
    "a number": lambda _: 3,
    "null": lambda _: None,
    "no source": lambda info: {**info, "worldsim": None},
    "an odd source": lambda info: {**info, "worldsim": {"name": 3}},
    "a huge frame": lambda info: {**info, "worldsim": {**info["worldsim"], "size": [10**6, 10**6]}},
    "no episodes": lambda info: {key: value for key, value in info.items() if key != "total_episodes"},
    "text for a count": lambda info: {**info, "total_episodes": "3"},
    "a negative count": lambda info: {**info, "total_frames": -3},
    "too many": lambda info: {**info, "total_episodes": 10**30},
    "more than there are": lambda info: {**info, "total_episodes": 10**6},
    "no rate": lambda info: {**info, "worldsim": {**info["worldsim"], "fps": 0}},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, [make_episode(seed) for seed in (40, 1, 2)])
    return tmp_path


def read_all(root: Path) -> None:
    dataset = Dataset(root)
    for index in range(len(dataset)):
        dataset.episode(index)


@pytest.mark.parametrize("case", INFO)
def test_hostile_infos_are_one_error(root: Path, case: str) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(INFO[case](json.loads(path.read_text()))))
    with pytest.raises(DataError):
        Dataset(root)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"worldsim": NaN}'])
def test_an_info_that_is_no_json_is_one_error(root: Path, text: bytes) -> None:
    (root / "meta/info.json").write_bytes(text)
    with pytest.raises(DataError):
        Dataset(root)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("dataset_from_index", -10),
        ("videos/observation.image/from_frame", -10),
        ("length", 0),
        ("length", 10**9),
        ("episode_index", 5),
        ("data/file_index", -1),
        ("seed", None),
        ("length", "x"),
        ("seed", "gone"),
    ],
)
def test_episodes_lie_one_after_the_other(root: Path, column: str, value: Any) -> None:
    path = next(root.glob("meta/episodes/chunk-000/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    at = table.column_names.index(column)
    if value == "gone":
        table = table.remove_column(at)
    else:
        values = [value, *table[column].to_pylist()[1:]] if value != "x" else ["x"] * table.num_rows
        table = table.set_column(at, column, pa.array(values))
    pq.write_table(table, path)
    with pytest.raises(DataError):
        read_all(root)


def test_rows_without_a_column_are_one_error(root: Path) -> None:
    path = next(root.glob("data/chunk-000/*.parquet"))
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["action"]), path)
    with pytest.raises(DataError, match="columns"):
        read_all(root)


def test_bits_flipped_in_a_table_change_no_value(root: Path) -> None:
    """They are noticed, unless they are in what nobody reads, such as a page's statistics."""
    path, chance = next(root.glob("data/chunk-000/*.parquet")), random.Random(2)
    data, true, noticed = path.read_bytes(), read_table(path), 0
    size = int.from_bytes(data[-8:-4], "little")
    for _ in range(60):
        bent = bytearray(data)
        bit = chance.randrange(8 * 4, 8 * (len(data) - size - 8))
        bent[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bent)
        try:
            assert read_table(path).equals(true)
        except DataError:
            noticed += 1
    assert noticed > 30


@pytest.mark.parametrize("codec", ["lossless", "compact", "raw"])
def test_bits_flipped_in_frames_are_noticed(tmp_path: Path, codec: CodecName) -> None:
    shards = [Shard(tmp_path / "shards", number) for number in range(2)]
    for shard in shards:
        write_shard(shard, make_episode(shard.number), SPEC, codec)
    gather(tmp_path, SPEC, shards)
    path, chance = next(tmp_path.glob("frames/*/*" if codec == "raw" else "videos/*/*/*")), random.Random(3)
    data = path.read_bytes()
    read_all(tmp_path)
    for _ in range(20):
        bent = bytearray(data)
        bit = chance.randrange(8 * 200, 8 * len(data))
        bent[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bent)
        with pytest.raises(DataError, match="as it was recorded"):
            Dataset(tmp_path).episode(0)


def test_raw_frames_of_another_size_are_one_error(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "shards", 0)
    write_shard(shard, make_episode(1), SPEC, "raw")
    gather(tmp_path, SPEC, [shard])
    path = next(tmp_path.glob("frames/*/*"))
    np.save(path, np.load(path)[:, ::2])
    with pytest.raises(DataError, match="frames must be"):
        Dataset(tmp_path).episode(0)


@pytest.mark.parametrize("told", [None, "x"])
def test_a_checksum_that_is_none(root: Path, told: str | None) -> None:
    """A dataset of before there were checksums is read; what is no number is refused."""
    path = next(root.glob("meta/episodes/chunk-000/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    at = table.column_names.index("videos/observation.image/crc32")
    name, values = table.column_names[at], [told] * table.num_rows
    odd = table.remove_column(at)
    pq.write_table(odd if told is None else odd.append_column(name, pa.array(values)), path)
    if told is None:
        read_all(root)
        return
    with pytest.raises(DataError, match="where they lie"):
        read_all(root)
