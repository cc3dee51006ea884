"""The inverse dynamics model learns from real frames, and its metrics are what they say."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import PretendedCollector, RoomCollector
from worldsim.engine.world import World
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import CheckpointError
from worldsim.evaluation.calibration import auroc, calibration_metrics
from worldsim.evaluation.controllability import controllability_metrics
from worldsim.evaluation.idm import training
from worldsim.evaluation.idm.accuracy import measure_accuracy
from worldsim.evaluation.idm.collect import IDM_SEEDS, collect_frames
from worldsim.evaluation.idm.model import InverseDynamicsModel, ego_motion, find_idm
from worldsim.evaluation.trajectories import REPORTING_SEEDS


def test_its_seeds_are_not_reported_on() -> None:
    assert REPORTING_SEEDS[-1] < IDM_SEEDS[0]
    assert IDM_SEEDS[-1] < 2**32


@pytest.mark.slow
def test_it_learns_how_the_camera_turns(
    room_collector: RoomCollector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_FRAMES", 40)
    monkeypatch.setattr(training, "_CACHED_FRAMES", 80)
    labelled = collect_frames(room_collector, iter(range(8)), 500)
    assert len(labelled.frames) == len(labelled.controls) == len(labelled.tracks) == 500
    network = training.train(labelled, DOOM_KEYS, 1.2, clock=itertools.count().__next__)
    accuracy = measure_accuracy(network, collect_frames(room_collector, iter(range(50, 54)), 300), 10)
    assert accuracy["degrees_per_frame"] < 0.9 * accuracy["degrees_moved"]
    idm = InverseDynamicsModel(network, "doom-maze", accuracy)
    idm.save(tmp_path / "idm.safetensors")
    again = InverseDynamicsModel.load(tmp_path / "idm.safetensors")
    assert again.accuracy == accuracy
    clips = labelled.clips(labelled.starts(6)[:3], 6)[0]
    assert again.predict(clips).motion == pytest.approx(idm.predict(clips).motion, abs=0.02)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="worldsim train-idm"):
        InverseDynamicsModel.load(tmp_path / "x.safetensors")


def test_the_maze_has_its_idm(world: World) -> None:
    idm = find_idm(world.spec)
    assert idm is not None
    assert idm.source == "doom-maze"
    assert idm.accuracy["turn_left"] > 0.9
    assert idm.accuracy["degrees_per_frame"] < 0.25 * idm.accuracy["degrees_moved"]
    assert idm.accuracy["degrees_per_second"] < 4
    assert idm.accuracy["percent_per_second"] < 6


def test_motion_is_forward_right_and_turned_right(world: World) -> None:
    episode = PretendedCollector(world.spec).play(0)
    assert episode.poses is not None
    moved = ego_motion(episode.poses)
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
    metrics = controllability_metrics(truth(), 10)
    assert metrics["key_accuracy"].value == 1
    assert metrics["rot_deg_s"].value == pytest.approx(0)
    assert metrics["trans_pct_s"].value == pytest.approx(0)


def test_errors_are_per_second() -> None:
    scores = truth()
    scores["pose.moved"] = scores["moved"] + (0, 0, np.radians(0.3))
    scores["true.keys"] = ~scores["held"]
    metrics = controllability_metrics(scores, 10)
    assert metrics["rot_deg_s"].value == pytest.approx(3)
    assert metrics["key_accuracy"].value == 0
    scores["pose.moved"] = np.zeros_like(scores["moved"])
    metrics = controllability_metrics(scores, 10)
    assert metrics["trans_pct_s"].value == pytest.approx(100)
    assert metrics["rot_deg_s"].value == pytest.approx(metrics["rot_deg_s"].lower_reference)


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
    metrics = calibration_metrics(drift, psnr, 20)
    assert metrics["uncertainty_auroc"].value == 1
    assert metrics["uncertainty_spearman"].value > 0.3
    assert calibration_metrics(drift, np.full((6, 64), 30.0), 20) == {}
