"""``worldsim eval``, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.conftest import PretendedCollector
from worldsim.data.video import decode
from worldsim.engine.world import World
from worldsim.evaluation import run, videos
from worldsim.evaluation.open_collector import open_collector

SHORT = ["--quick", "--trajectories", "2", "--horizon", "16", "--device", "cpu"]


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[PretendedCollector]:
    """Stands in for the real environment."""
    made: list[PretendedCollector] = []

    def make(world: World, frames: int, *, labels: bool) -> PretendedCollector:
        assert not labels, "a still place has no objects"
        made.append(PretendedCollector(world.spec, frames))
        return made[-1]

    monkeypatch.setattr(run, "open_collector", make)
    return made


@pytest.mark.slow
def test_json(folder: Path, capsys: pytest.CaptureFixture[str], pretended: list[PretendedCollector]) -> None:
    assert run.main([str(folder), *SHORT, "--json", "--dtype", "float32"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["world"] == "tiny"
    assert (report["dtype"], report["device"], report["denoising_steps"]) == ("float32", "cpu", 2)
    assert report["trajectories"] == 2
    tokenizer = report["metrics"]["tokenizer_psnr"]
    assert tokenizer.keys() == {"value", "ci", "lower_reference", "upper_reference", "unit", "about"}
    assert tokenizer["ci"][0] <= tokenizer["value"] <= tokenizer["ci"][1]
    assert pretended[0].is_closed


@pytest.mark.slow
def test_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([str(folder), *SHORT, "--denoising-steps", "1"]) == 0
    out = capsys.readouterr().out
    assert "next_psnr_k4" in out
    assert "steps 1" in out
    assert "rollout16_psnr: rollout under the true keys and yaw, mean of frames 1..16" in out


@pytest.mark.slow
def test_videos(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "VIDEO_FRAMES", 12)
    short = videos.write_videos

    def few(*args: object, **kwargs: object) -> None:
        short(*args, **kwargs, count=2, frames=12)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "write_videos", few)
    assert run.main([str(folder), *SHORT, "--videos", str(tmp_path / "videos")]) == 0
    names = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert names == ["4000000000.mp4", "4000000002.mp4", "sheet.png"]
    frames = list(decode(tmp_path / "videos" / names[0], 0, 13, 17.5))
    assert frames[0].shape == (360, 960, 3)
    left, right = np.split(frames[0].astype(int), 2, axis=1)
    assert np.abs(left - right).mean() < 1, "both begin with the last given frame"
    sheet = np.asarray(Image.open(tmp_path / "videos" / "sheet.png"))
    assert sheet.shape == (16 + 2 * (16 + 120), 11 * 80, 3)


def test_the_environment_is_opened_at_the_size_of_the_world(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.undo()
    monkeypatch.setattr(
        "worldsim.envs.episode_collector.EpisodeCollector",
        lambda name, size, max_frames, labels: seen.append((name, size, max_frames, labels)),
    )
    open_collector(world, 324, labels=True)
    assert seen == [("doom-maze", (60, 80), 324, True)]
