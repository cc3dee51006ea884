"""The judge: it learns from real frames, comes back from its file, and is told apart from what it judges."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import PretendedPlayer, StagedPlayer
from worldsim.controls import DOOM_KEYS
from worldsim.engine.world import World
from worldsim.errors import CheckpointError
from worldsim.evaluation import judge_training as training
from worldsim.evaluation.foresight import auroc, foresight_figures
from worldsim.evaluation.judge import Judge, find_judge, planar_motion
from worldsim.evaluation.judge_accuracy import accuracy_of
from worldsim.evaluation.judge_footage import JUDGE_SEEDS, play
from worldsim.evaluation.obedience import obedience_figures
from worldsim.evaluation.trajectories import REPORTING_SEEDS


def test_its_seeds_are_not_reported_on() -> None:
    assert REPORTING_SEEDS[-1] < JUDGE_SEEDS[0]
    assert JUDGE_SEEDS[-1] < 2**32


def test_it_learns_how_the_camera_turns(
    staged: StagedPlayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_FRAMES", 40)
    monkeypatch.setattr(training, "_KEPT_FRAMES", 80)
    footage = play(staged, iter(range(8)), 500)
    assert len(footage.frames) == len(footage.controls) == len(footage.tracks) == 500
    network = training.train(footage, DOOM_KEYS, 1.2, clock=itertools.count().__next__)
    accuracy = accuracy_of(network, play(staged, iter(range(50, 54)), 300), 10)
    assert accuracy["degrees_per_frame"] < 0.9 * accuracy["degrees_moved"]
    judge = Judge(network, "doom-maze", accuracy)
    judge.save(tmp_path / "judge.safetensors")
    again = Judge.load(tmp_path / "judge.safetensors")
    assert again.accuracy == accuracy
    clips = footage.clips(footage.starts(6)[:3], 6)[0]
    assert again.read(clips).motion == pytest.approx(judge.read(clips).motion, abs=0.02)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="worldsim judge"):
        Judge.load(tmp_path / "x.safetensors")


def test_the_maze_has_its_judge(world: World) -> None:
    judge = find_judge(world.spec)
    assert judge is not None
    assert judge.source == "doom-maze"
    assert judge.accuracy["turn_left"] > 0.9
    assert judge.accuracy["degrees_per_frame"] < 0.25 * judge.accuracy["degrees_moved"]
    assert judge.accuracy["degrees_per_second"] < 4
    assert judge.accuracy["percent_per_second"] < 6


def test_motion_is_forward_right_and_turned_right(world: World) -> None:
    episode = PretendedPlayer(world.spec).play(0)
    assert episode.poses is not None
    moved = planar_motion(episode.poses)
    assert moved[:, 2] == pytest.approx(episode.controls[:-1, -1], abs=1e-6)
    assert np.hypot(moved[:, 0], moved[:, 1]) == pytest.approx(0.01 * episode.controls[:-1, 0], abs=1e-9)


def truth(n: int = 4, frames: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    moved = rng.normal(size=(n, frames, 3)) * (0.02, 0.02, 0.05) + (0.2, 0, 0)
    held = rng.random((n, frames, 2)) < 0.4
    names = ("true", "pose", "real")
    return {"moved": moved, "held": held} | {
        f"{name}.{key}": value
        for name in names
        for key, value in (("moved", moved.copy()), ("keys", held.copy()))
    }


def test_who_moves_as_told_is_off_by_nothing() -> None:
    figures = obedience_figures(truth(), 10)
    assert figures["key_accuracy"].value == 1
    assert figures["rot_deg_s"].value == pytest.approx(0)
    assert figures["trans_pct_s"].value == pytest.approx(0)


def test_errors_are_per_second() -> None:
    scores = truth()
    scores["pose.moved"] = scores["moved"] + (0, 0, np.radians(0.3))
    scores["true.keys"] = ~scores["held"]
    figures = obedience_figures(scores, 10)
    assert figures["rot_deg_s"].value == pytest.approx(3)
    assert figures["key_accuracy"].value == 0
    scores["pose.moved"] = np.zeros_like(scores["moved"])
    figures = obedience_figures(scores, 10)
    assert figures["trans_pct_s"].value == pytest.approx(100)
    assert figures["rot_deg_s"].value == pytest.approx(figures["rot_deg_s"].floor)


def test_auroc_is_the_chance_to_be_right() -> None:
    so = np.array([False, False, True, True])
    assert auroc(np.array([1.0, 2, 3, 4]), so) == 1
    assert auroc(np.array([4.0, 3, 2, 1]), so) == 0
    assert auroc(np.ones(4), so) == 0.5
    assert np.isnan(auroc(np.ones(4), np.zeros(4, bool)))


def test_a_signal_that_comes_before_the_error_warns() -> None:
    psnr = np.full((6, 64), 30.0)
    psnr[:3, 40:] = 10
    drift = np.zeros((6, 64))
    drift[:3, 24:] = 1
    figures = foresight_figures(drift, psnr, 20)
    assert figures["drift_auroc"].value == 1
    assert figures["drift_correlation"].value > 0.3
    assert foresight_figures(drift, np.full((6, 64), 30.0), 20) == {}
