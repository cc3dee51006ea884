"""What is written is what is read, in the layout that LeRobot v3 documents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.collectors import SPEC, STEERED, assert_same, make_episode, steer
from worldsim import config
from worldsim.controls import ActionBox, ControlSpace
from worldsim.data import gather as gather_module
from worldsim.data.dataset import Dataset, split_of
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.gather import gather
from worldsim.data.rows import from_rows
from worldsim.data.shards import Shard, find_shards, sweep, write_shard
from worldsim.data.spec import SourceSpec
from worldsim.errors import ControlError, DataError


def write(root: Path, episodes: list[EpisodeArrays], first: int = 0, spec: SourceSpec = SPEC) -> None:
    shards = [Shard(root / "shards", first + i) for i in range(len(episodes))]
    for shard, episode in zip(shards, episodes, strict=True):
        write_shard(shard, episode, spec, "lossless")
    gather(root, spec, shards)


def test_spec_survives_json() -> None:
    assert config.from_dict(SourceSpec, json.loads(json.dumps(config.to_dict(SPEC)))) == SPEC


def test_intrinsics_follow_the_size() -> None:
    half = SPEC.at_size((6, 8))
    assert half.size == (6, 8)
    assert half.intrinsics is not None
    assert (half.intrinsics.fx, half.intrinsics.cy) == (4, 3)


def test_round_trip_in_any_order(tmp_path: Path) -> None:
    episodes = [make_episode(seed) for seed in (40, 1, 2, 3)]
    write(tmp_path, episodes)
    dataset = Dataset(tmp_path)
    assert dataset.spec == SPEC
    assert [(e.index, e.seed, e.length) for e in dataset.episodes] == [
        (i, e.seed, len(e)) for i, e in enumerate(episodes)
    ]
    assert [e.split for e in dataset.episodes] == ["held_out", "train", "train", "train"]
    for i in (3, 0, 2, 1):
        assert_same(dataset.episode(i), episodes[i])
    poses = [e.poses for e in episodes if e.poses is not None]
    np.testing.assert_array_equal(dataset.poses(), np.concatenate(poses))
    assert not (tmp_path / "shards").exists() or not list((tmp_path / "shards").iterdir())


def test_files_stay_below_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_module, "VIDEO_FILE_MB", 0.02)
    monkeypatch.setattr(gather_module, "DATA_FILE_MB", 0.008)
    episodes = [make_episode(seed, 20) for seed in range(6)]
    write(tmp_path, episodes)
    assert len(list(tmp_path.glob("videos/observation.image/chunk-000/file-*.mp4"))) > 2
    assert len(list(tmp_path.glob("data/chunk-000/file-*.parquet"))) > 2
    for i, episode in enumerate(episodes):
        assert_same(Dataset(tmp_path).episode(i), episode)


def test_later_episodes_are_added(tmp_path: Path) -> None:
    episodes = [make_episode(seed) for seed in range(5)]
    write(tmp_path, episodes[:3])
    write(tmp_path, episodes[3:], first=3)
    dataset = Dataset(tmp_path)
    for i, episode in enumerate(episodes):
        assert_same(dataset.episode(i), episode)
    assert json.loads((tmp_path / "meta/info.json").read_text())["total_frames"] == sum(map(len, episodes))


def test_a_crash_while_gathering_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = [make_episode(seed) for seed in range(3)]
    write(tmp_path, episodes[:1])

    def crash(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(gather_module, "write_info", crash)
        with pytest.raises(OSError, match="full"):
            write(tmp_path, episodes[1:], first=1)
    assert len(Dataset(tmp_path)) == 1
    gather(tmp_path, SPEC, list(find_shards(tmp_path / "shards").values()))
    for i, episode in enumerate(episodes):
        assert_same(Dataset(tmp_path).episode(i), episode)
    assert len(list(tmp_path.glob("data/chunk-*/*"))) == 2


def test_the_layout_is_lerobots(tmp_path: Path) -> None:
    episodes = [make_episode(seed) for seed in range(3)]
    write(tmp_path, episodes)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["total_episodes"] == 3
    table = pq.read_table(tmp_path / info["data_path"].format(chunk_index=0, file_index=0))
    stored = {name for name, feature in info["features"].items() if feature["dtype"] != "video"}
    assert stored == set(table.column_names)
    for name in stored:
        shape = info["features"][name]["shape"]
        kind = table.schema.field(name).type
        assert getattr(kind, "list_size", 1) == shape[0], name
    frames = sum(map(len, episodes))
    assert table["index"].to_pylist() == list(range(frames))
    assert table["frame_index"].to_pylist()[: len(episodes[0])] == list(range(len(episodes[0])))
    np.testing.assert_allclose(table["timestamp"].to_numpy()[:5], np.arange(5) / 17.5, rtol=1e-6)
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert rows[1]["dataset_from_index"] == len(episodes[0])
    assert rows[1]["videos/observation.image/from_timestamp"] == pytest.approx(len(episodes[0]) / 17.5)
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet").to_pylist()
    assert tasks == [{"task_index": 0, "__index_level_0__": "dots"}]


def test_statistics_are_those_of_all_rows(tmp_path: Path) -> None:
    episodes = [make_episode(seed) for seed in range(4)]
    write(tmp_path, episodes[:2])
    write(tmp_path, episodes[2:], first=2)
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    rewards = np.concatenate([e.rewards for e in episodes]).astype(float)
    assert stats["reward"]["mean"] == pytest.approx([rewards.mean()])
    assert stats["reward"]["std"] == pytest.approx([rewards.std()])
    assert stats["reward"]["count"] == [len(rewards)]
    controls = np.concatenate([e.controls for e in episodes]).astype(float)
    assert stats["action"]["max"] == pytest.approx(controls.max(0).tolist())
    image = np.concatenate([e.frames for e in episodes]) / 255
    np.testing.assert_allclose(np.ravel(stats["observation.image"]["mean"]), image.mean((0, 1, 2)), atol=1e-9)


def test_one_key_is_a_plain_column(tmp_path: Path) -> None:
    space = ControlSpace(keys=("jump",), yaw=False, pose=False, discrete_actions=((), ("jump",)))
    spec = SourceSpec(name="jumper", size=SPEC.size, fps=30, control_space=space)
    full = make_episode(1)
    episode = EpisodeArrays(
        full.frames, full.controls[:, 1:], None, full.rewards, full.terminated, full.truncated, 1
    )
    write(tmp_path, [episode], spec=spec)
    dataset = Dataset(tmp_path)
    np.testing.assert_array_equal(dataset.episode(0).controls, episode.controls)
    assert dataset.episode(0).poses is None
    with pytest.raises(DataError, match="poses"):
        dataset.poses()


def test_sweep_leaves_whole_shards_only(tmp_path: Path) -> None:
    write_shard(Shard(tmp_path, 0), make_episode(0), SPEC, "lossless")
    (tmp_path / "episode-000001.mp4").touch()
    (tmp_path / "episode-000002.parquet.7.tmp").touch()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["episode-000000.mp4", "episode-000000.parquet"]


def test_what_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--resume"):
        Dataset(tmp_path / "nothing")
    write(tmp_path, [make_episode(0)])
    with pytest.raises(DataError, match="index"):
        Dataset(tmp_path).episode(1)
    (tmp_path / "meta/info.json").write_text("{")
    with pytest.raises(DataError, match="JSON"):
        Dataset(tmp_path)


def test_one_seed_in_twenty_is_held_out() -> None:
    assert [seed for seed in range(60) if split_of(seed) == "held_out"] == [0, 20, 40]


def test_arrays_of_different_lengths_are_refused() -> None:
    good = make_episode(0, 4)
    with pytest.raises(DataError, match="length"):
        EpisodeArrays(good.frames, good.controls[:3], None, good.rewards, good.terminated, good.truncated, 0)


def test_prompts_are_tasks_of_rows_and_episodes(tmp_path: Path) -> None:
    space = replace(SPEC.control_space, prompts=("rain", "snow"))
    spec = replace(SPEC, control_space=space)
    episodes = []
    for seed, prompt in ((1, 2.0), (2, 1.0)):
        episode = make_episode(seed, 6)
        column = np.full((6, 1), prompt, np.float32)
        column[3:] *= seed == 1  # the second episode loses its prompt half-way
        episodes.append(replace(episode, controls=np.concatenate([episode.controls, column], 1)))
    write(tmp_path, episodes, spec=spec)
    dataset = Dataset(tmp_path)
    assert dataset.spec == spec
    for i, episode in enumerate(episodes):
        assert_same(dataset.episode(i), episode)
    rows = pq.read_table(tmp_path / "data/chunk-000/file-000.parquet")
    assert rows["task_index"].to_pylist() == [2] * 6 + [1] * 3 + [0] * 3
    assert len(rows["action"][0]) == 3
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet").to_pylist()
    assert [task["__index_level_0__"] for task in tasks] == ["dots", "rain", "snow"]
    located = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    assert located["tasks"].to_pylist() == [["snow"], ["dots", "rain"]]
    with pytest.raises(DataError, match="task's number"):
        from_rows(
            pq.read_table(tmp_path / "data/chunk-000/file-000.parquet"),
            replace(spec, control_space=replace(space, prompts=("rain",))),
        )
    with pytest.raises(DataError, match="source's name"):
        replace(spec, control_space=replace(space, prompts=("dots",)))


def test_actions_are_numbers_of_the_action_column(tmp_path: Path) -> None:
    episodes = [steer(make_episode(seed, 6)) for seed in (1, 2)]
    write(tmp_path, episodes, spec=STEERED)
    dataset = Dataset(tmp_path)
    assert dataset.spec == STEERED
    for i, episode in enumerate(episodes):
        assert_same(dataset.episode(i), episode)
    rows = pq.read_table(tmp_path / "data/chunk-000/file-000.parquet")
    assert rows["action_known"].to_pylist() == [True, True, False] * 4
    info = json.loads((tmp_path / "meta/info.json").read_text())["features"]
    assert info["action"]["names"] == ["left", "right", "yaw", "action_0", "action_1"]
    assert info["action"]["shape"] == [len(rows["action"][0])] == [5]
    assert info["action_known"] == {"dtype": "bool", "shape": [1], "names": None}
    narrow = replace(STEERED.control_space, action=ActionBox(low=(0.0, 0.0), high=(0.1, 0.1)))
    with pytest.raises(ControlError, match="of an action must be in"):
        from_rows(rows, replace(STEERED, control_space=narrow))
