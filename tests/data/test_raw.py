"""Raw frames: a dataset without videos holds what one with lossless videos holds, and needs no av."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.collectors import SPEC, DotsCollector, assert_same, make_episode
from tests.data.test_dataset import write
from tests.data.test_recorder import CFG
from worldsim.data import gather as gather_module
from worldsim.data.clips import ClipStore
from worldsim.data.dataset import Dataset
from worldsim.data.gather import gather
from worldsim.data.recorder import record
from worldsim.data.shards import Shard, find_shards, sweep, write_shard
from worldsim.errors import DataError

RAW = replace(CFG, codec="raw")


@pytest.fixture
def without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.slow
@pytest.mark.usefixtures("without_av")
@pytest.mark.parametrize("workers", [1, 2])
def test_recorded_resumed_and_read_without_av(tmp_path: Path, workers: int) -> None:
    record(DotsCollector, tmp_path, RAW, frames=60, workers=workers)
    record(DotsCollector, tmp_path, RAW, frames=150, workers=workers, resume=True)
    dataset = Dataset(tmp_path)
    assert sum(episode.length for episode in dataset.episodes) >= 150
    for episode in dataset.episodes:
        assert_same(dataset.episode(episode.index), make_episode(episode.seed))
    assert not list(tmp_path.glob("shards/*"))
    assert not (tmp_path / "videos").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [SPEC.size, (6, 8)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_clips_are_those_of_a_lossless_video(
    tmp_path: Path, size: tuple[int, int], in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(DotsCollector, tmp_path / "video", CFG, frames=100)
    record(DotsCollector, tmp_path / "raw", RAW, frames=100)
    if not in_memory:
        monkeypatch.setattr("os.sysconf", lambda name: 1)
    video, raw = (ClipStore(tmp_path / kind, size) for kind in ("video", "raw"))
    np.testing.assert_array_equal(video.frames, raw.frames)
    one, other = (store.sample(8, 4, np.random.default_rng(0)) for store in (video, raw))
    for name in ("frames", "controls", "poses", "rewards", "ends"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (tmp_path / "raw/cache").exists() != in_memory


@pytest.mark.slow
def test_a_raw_dataset_claims_no_video(tmp_path: Path) -> None:
    record(DotsCollector, tmp_path, RAW, frames=40)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["video_path"] is None
    assert "observation.image" not in info["features"]
    assert "observation.image" not in json.loads((tmp_path / "meta/stats.json").read_text())
    place = info["frames_path"].format(chunk_index=0, file_index=1)
    np.testing.assert_array_equal(np.load(tmp_path / place), Dataset(tmp_path).episode(1).frames)


def test_a_crash_while_gathering_costs_no_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [Shard(tmp_path / "shards", n) for n in range(3)]
    for n, shard in enumerate(shards):
        write_shard(shard, make_episode(n), SPEC, "raw")

    def crash(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(gather_module, "write_info", crash)
        with pytest.raises(OSError, match="full"):
            gather(tmp_path, SPEC, shards)
    sweep(tmp_path / "shards")
    gather(tmp_path, SPEC, list(find_shards(tmp_path / "shards").values()))
    for n in range(3):
        assert_same(Dataset(tmp_path).episode(n), make_episode(n))


def test_sweep_takes_raw_frames_without_a_table(tmp_path: Path) -> None:
    write_shard(Shard(tmp_path, 0), make_episode(0), SPEC, "raw")
    (tmp_path / "episode-000001.npy").touch()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["episode-000000.npy", "episode-000000.parquet"]


@pytest.mark.slow
def test_frames_that_are_damaged_or_no_frames_are_an_error(tmp_path: Path) -> None:
    record(DotsCollector, tmp_path / "raw", RAW, frames=20)
    file = tmp_path / "raw/frames/chunk-000/file-000.npy"
    np.save(file, np.zeros((2, 2)))
    with pytest.raises(DataError, match="must hold"):
        ClipStore(tmp_path / "raw")
    file.write_bytes(b"no array")
    with pytest.raises(DataError, match="readable"):
        Dataset(tmp_path / "raw").mapped(0)
    write(tmp_path / "video", [make_episode(1)])
    with pytest.raises(DataError, match="raw"):
        Dataset(tmp_path / "video").mapped(0)
