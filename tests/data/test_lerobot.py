"""The LeRobot v3 layout, read back by pandas as LeRobot reads it, and by LeRobot's own loader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.collectors import DotsCollector, SteeredDotsCollector, make_episode, steer
from worldsim.data.recorder import RecordConfig, episode_seed, record

HERE = Path(__file__).parent / "lerobot"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dots") / "data"
    record(DotsCollector, root, RecordConfig(source="dots", seed=3), frames=60)
    return root


@pytest.mark.slow
def test_pandas_reads_tasks_by_their_names(dataset: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(dataset / "meta" / "tasks.parquet")
    assert tasks.index.tolist() == ["dots"]
    assert tasks.columns.tolist() == ["task_index"]
    assert tasks.loc["dots"].task_index == 0  # as lerobot's get_task_index asks
    assert tasks.iloc[0].name == "dots"  # as its __getitem__ does


def test_the_metadata_is_what_pandas_itself_writes(dataset: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pq = pytest.importorskip("pyarrow.parquet")
    pandas.DataFrame({"task_index": [0]}, index=["dots"]).to_parquet(tmp_path / "theirs.parquet")
    paths = (dataset / "meta" / "tasks.parquet", tmp_path / "theirs.parquet")
    ours, theirs = (json.loads(pq.read_schema(path).metadata[b"pandas"]) for path in paths)
    assert ours["index_columns"] == theirs["index_columns"]
    assert [column["field_name"] for column in ours["columns"]] == [
        column["field_name"] for column in theirs["columns"]
    ]


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of LeRobot's packages."""
    site = tmp_path_factory.mktemp("lerobot") / "site"
    wanted = ["--no-deps", "--target", str(site), "--requirement", str(HERE / "requirements.txt")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", *wanted]
    made = subprocess.run(install, capture_output=True, text=True, timeout=400)
    if made.returncode:
        pytest.skip(f"no packages to be had: {made.stderr[-200:]}")
    return site


def read(dataset: Path, lerobot: Path, home: Path) -> dict[str, Any]:
    """The first and the last row as LeRobot reads them."""
    env = {**os.environ, "PYTHONPATH": str(lerobot), "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf")}
    call = [sys.executable, "-W", "ignore", str(HERE / "read.py"), str(dataset)]
    done = subprocess.run(call, cwd=home, env=env, capture_output=True, text=True, timeout=150)
    assert done.stdout, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.network
@pytest.mark.timeout(600)
def test_lerobot_itself_reads_continuous_actions(lerobot: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    record(SteeredDotsCollector, root, RecordConfig(source="dots", seed=3), frames=40)
    seen = read(root, lerobot, tmp_path)
    first = steer(make_episode(episode_seed(3, 0))).controls[0]
    np.testing.assert_allclose(seen["action"][0], [*first[:3], *first[4:]], rtol=1e-6)
    assert seen["action_known"][0] is True
    assert {"action", "action_known"} <= set(seen["stats"])


@pytest.mark.network
@pytest.mark.timeout(600)
def test_lerobot_itself_reads_frames_names_and_poses(dataset: Path, lerobot: Path, tmp_path: Path) -> None:
    seen = read(dataset, lerobot, tmp_path)
    info = json.loads((dataset / "meta" / "info.json").read_text())
    first, last = (make_episode(episode_seed(3, n)) for n in (0, info["total_episodes"] - 1))
    assert (seen["length"], seen["episodes"]) == (info["total_frames"], info["total_episodes"])
    assert seen["fps"] == 17.5
    assert (seen["task"], seen["task_index"]) == (["dots", "dots"], 0)
    assert seen["image"] == [3, 12, 16]
    assert seen["first"] == first.frames[0].transpose(2, 0, 1).ravel().tolist()
    np.testing.assert_allclose(seen["reward"], [first.rewards[0], last.rewards[-1]], rtol=1e-6)
    np.testing.assert_allclose(seen["action"], [first.controls[0], last.controls[-1]], rtol=1e-6)
    assert first.poses is not None
    np.testing.assert_allclose(seen["pose"], first.poses[0].ravel(), rtol=1e-6, atol=1e-6)
    assert {"observation.image", "action", "reward"} <= set(seen["stats"])
