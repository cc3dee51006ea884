"""The recorder: the dataset follows from seed and frames alone, and survives being killed."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.collectors import DotsCollector, assert_same, make_episode
from tests.waiting import members, wait_until
from worldsim.data.dataset import Dataset
from worldsim.data.recorder import RecordConfig, episode_seed, record
from worldsim.errors import DataError, DependencyError, SourceError

CFG = RecordConfig(source="dots", seed=3)
ROOT = Path(__file__).parents[2]
SLOW = functools.partial(DotsCollector, pause=0.02)

SCRIPT = """
import functools, sys
from pathlib import Path
from tests.data.test_recorder import CFG, SLOW
from worldsim.data.recorder import record
if __name__ == "__main__":
    done = record(SLOW, Path(sys.argv[1]), CFG, frames=int(sys.argv[2]), workers=2, resume=True)
    sys.exit(0 if done.complete else 130)
"""


def assert_complete(root: Path, frames: int) -> None:
    """The dataset is the fewest first episodes that have ``frames`` frames, and nothing else is there."""
    dataset = Dataset(root)
    total = 0
    for episode in dataset.episodes:
        assert total < frames
        assert episode.seed == episode_seed(CFG.seed, episode.index)
        assert_same(dataset.episode(episode.index), make_episode(episode.seed))
        total += episode.length
    assert total >= frames
    assert not list(root.rglob("*.tmp"))
    assert not list(root.glob("shards/*"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_the_dataset_does_not_depend_on_the_workers(tmp_path: Path, workers: int) -> None:
    seen: list[int] = []
    done = record(DotsCollector, tmp_path, CFG, frames=150, workers=workers, on_progress=seen.append)
    assert_complete(tmp_path, 150)
    assert done.complete
    assert done.frames == sum(e.length for e in Dataset(tmp_path).episodes)
    assert seen == sorted(seen)


@pytest.mark.slow
def test_resuming_a_complete_recording_does_nothing(tmp_path: Path) -> None:
    record(DotsCollector, str(tmp_path), CFG, frames=60)  # a folder may be a string
    before = (tmp_path / "meta/info.json").stat().st_mtime_ns
    done = record(DotsCollector, tmp_path, CFG, frames=60, resume=True)
    assert (done.new_frames, done.complete) == (0, True)
    assert (tmp_path / "meta/info.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_resuming_with_more_frames_goes_on(tmp_path: Path) -> None:
    record(DotsCollector, tmp_path, CFG, frames=60)
    record(DotsCollector, tmp_path, CFG, frames=200, workers=2, resume=True)
    assert_complete(tmp_path, 200)


@pytest.mark.slow
@pytest.mark.parametrize(("whole_group", "shards"), [(False, 7), (True, 1), (True, 22)])
def test_kill_minus_9_and_resume(tmp_path: Path, whole_group: bool, shards: int) -> None:
    root = tmp_path / "data"
    command = [sys.executable, "-c", SCRIPT, str(root), "1200"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    wait_for_shards(root, shards)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    wait_until(lambda: not members(process.pid), "orphaned workers finish their episode and go")
    record(SLOW, root, CFG, frames=1200, workers=2, resume=True)
    assert_complete(root, 1200)


@pytest.mark.slow
def test_ctrl_c_leaves_a_readable_dataset(tmp_path: Path) -> None:
    root = tmp_path / "data"
    command = [sys.executable, "-c", SCRIPT, str(root), "100000"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    wait_for_shards(root, 6)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all
    assert process.wait(timeout=20) == 130
    dataset = Dataset(root)
    assert len(dataset) >= 3
    for episode in dataset.episodes:
        assert_same(dataset.episode(episode.index), make_episode(episode.seed))


def wait_for_shards(root: Path, count: int) -> None:
    # The first ones without a gap: one worker may be far ahead of another that has just started.
    shards = [root / f"shards/episode-{n:06d}.parquet" for n in range(count)]
    wait_until(lambda: all(shard.exists() for shard in shards), "the recorder records")


@pytest.mark.slow
def test_a_failing_source_is_reported(tmp_path: Path) -> None:
    collector = functools.partial(DotsCollector, fail_at=episode_seed(CFG.seed, 2))
    with pytest.raises(SourceError, match="the dots are gone"):
        record(collector, tmp_path, CFG, frames=500)
    record(DotsCollector, tmp_path, CFG, frames=500, resume=True)
    assert_complete(tmp_path, 500)


@pytest.mark.slow
def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    record(DotsCollector, tmp_path, CFG, frames=20)
    with pytest.raises(DataError, match="--resume"):
        record(DotsCollector, tmp_path, CFG, frames=20)
    other = RecordConfig(source="dots", seed=4)
    with pytest.raises(DataError, match="same settings"):
        record(DotsCollector, tmp_path, other, frames=20, resume=True)
    (tmp_path / "recording.json").unlink()
    with pytest.raises(DataError, match="another dataset"):
        record(DotsCollector, tmp_path, CFG, frames=20, resume=True)


def test_two_recorders_do_not_share_a_folder(tmp_path: Path) -> None:
    def record_again(frames: int) -> None:
        record(DotsCollector, tmp_path, CFG, frames=20, resume=True)

    with pytest.raises(DataError, match="only one recorder"):
        record(DotsCollector, tmp_path, CFG, frames=20, on_progress=record_again)


@pytest.mark.parametrize("package", ["av", "pyarrow"])
def test_a_missing_package_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r"pip install .*\[train\]"):
        record(DotsCollector, tmp_path / "x", CFG, frames=20)
    assert not (tmp_path / "x").exists()
