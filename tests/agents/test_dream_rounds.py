"""Rounds of learning in a dream: each phase can be interrupted, and is not made twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from PIL import Image

from tests.agents.toy_game import FEWEST, STONES
from tests.tiny_moving import moving_world
from worldsim.agents.dreamer import command
from worldsim.agents.dreamer.policy import load_policy
from worldsim.agents.learner import ppo_cleanrl
from worldsim.data.dataset import Dataset
from worldsim.engine.world import load
from worldsim.testing import tiny_world

ROW = {"round", "dream_mean", "fps", "frames", "real_mean", "se", "median", "by"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_world(tmp_path_factory.mktemp("worlds"), "stones", spec=STONES)


def words(folder: Path, out: Path, rounds: int = 1, **options: object) -> list[str]:
    """A command line of moments."""
    given = {"minutes": 0.01, "dreams": 3, "starts": 2, "episodes": 3, "games": 2, "episode": 24, "hold": 2}
    given |= {"collect": 60, "hidden": 8, "device": "cpu", "threads": 1, **options}
    line = [str(folder), "--out", str(out), "--rounds", str(rounds)]
    return line + [word for name, value in given.items() for word in (f"--{name}", str(value))]


def interrupted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, instead: Callable[..., Any]) -> None:
    """Replace a function for one call."""
    whole = getattr(owner, name)

    def once(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, whole)
        return instead(*args, **options)

    monkeypatch.setattr(owner, name, once)


def ctrl_c(*args: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_round_is_not_made_twice(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = words(folder, tmp_path)
    assert command.main(line) == 0
    (row,) = json.loads((tmp_path / "rounds.json").read_text())
    assert set(row) == ROW
    made = tmp_path / "round-0"
    assert FEWEST <= row["real_mean"] <= 24
    assert load_policy(made / "policy.safetensors").metadata.hidden == 8
    assert load_policy(made / command.EARLY).metadata.frames <= row["frames"]
    with Image.open(made / "policy.png") as sheet:
        assert sheet.height > 2 * STONES.size[0]
    with av.open(str(made / "policy.mp4")) as video:
        assert 2 <= sum(1 for _ in video.decode(video=0)) <= 25
    before = {path: path.read_bytes() for path in made.iterdir()}
    assert command.main(line) == 2  # results are not overwritten unasked
    assert command.main([*line, "--resume"]) == 0
    assert {path: path.read_bytes() for path in made.iterdir()} == before
    assert json.loads((tmp_path / "rounds.json").read_text()) == [row]
    capsys.readouterr()
    assert command.main([*words(folder, tmp_path, temperature=0.5), "--resume"]) == 2
    assert "the same --temperature" in capsys.readouterr().err


@pytest.mark.slow
def test_every_phase_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = words(folder, tmp_path, rounds=2)
    first, second = tmp_path / "round-0", tmp_path / "round-1"
    interrupted(monkeypatch, ppo_cleanrl, "improve", ctrl_c)
    assert command.main(line) == 130
    assert not json.loads((first / "dream.json").read_text())["finished"]
    assert load_policy(first / "policy.safetensors").metadata.frames == 0
    interrupted(monkeypatch, command, "score_policy", ctrl_c)
    line.append("--resume")
    assert command.main(line) == 130
    assert json.loads((first / "dream.json").read_text())["finished"]
    learnt = (first / "policy.safetensors").read_bytes()
    interrupted(monkeypatch, command, "record", lambda *args, **options: SimpleNamespace(complete=False))
    assert command.main(line) == 130
    assert [row["round"] for row in json.loads((tmp_path / "rounds.json").read_text())] == [0]
    interrupted(monkeypatch, command.world_training, "main", lambda line: 130)
    assert command.main(line) == 130
    frames = sum(row.length for row in Dataset(tmp_path / "data").episodes)
    assert frames >= 120
    assert not (second / "improved").exists()
    interrupted(monkeypatch, command, "write_round_videos", ctrl_c)
    assert command.main(line) == 130
    assert load(second / "world" / "stones", "cpu").spec == STONES
    assert command.main(line) == 0
    rows = json.loads((tmp_path / "rounds.json").read_text())
    assert [row["round"] for row in rows] == [0, 1]
    assert all(set(row) == ROW for row in rows)
    assert sum(row.length for row in Dataset(tmp_path / "data").episodes) == frames
    assert (first / "policy.safetensors").read_bytes() == learnt


def test_worlds_that_no_policy_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posed = tiny_world(tmp_path, "posed")
    assert command.main(words(posed, tmp_path / "out")) == 2
    assert "without camera poses" in capsys.readouterr().err
