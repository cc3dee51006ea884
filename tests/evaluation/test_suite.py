from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.conftest import PretendedCollector
from worldsim.controls import ControlSpace
from worldsim.engine.world import World, load
from worldsim.errors import SourceError
from worldsim.evaluation.suite import EvalConfig, Report, evaluate
from worldsim.evaluation.trajectories import REPORTING_SEEDS
from worldsim.testing import tiny_world

pytestmark = pytest.mark.slow  # all share a server or a report that takes seconds

SMALL = EvalConfig(trajectories=3, teacher_forced_frames=8, score_every=4, horizon=64, batch=2)
SHORT = replace(SMALL, horizon=16)
NAMES = {
    "tokenizer_psnr", "next_psnr", "copy_psnr", "next_gain", "next_psnr_given_pose",
    "scene_psnr", "warp_psnr",
    "rollout16_psnr", "rollout16_psnr_shuffled_actions", "rollout16_action_gap", "rollout16_psnr_given_pose",
    "rollout64_psnr", "rollout64_psnr_shuffled_actions", "rollout64_action_gap", "rollout64_psnr_given_pose",
    "gradient_ratio64", "frame_diff_ratio64",
    "pose16_metres", "pose16_degrees", "pose64_metres", "pose64_degrees",
    "next_psnr_k1", "next_psnr_k2", "next_psnr_k4",
    "rollout16_psnr_k1", "rollout16_psnr_k2", "rollout16_psnr_k4",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(world: World) -> Report:
    return evaluate(world, PretendedCollector(world.spec), SMALL)


@pytest.fixture(scope="module")
def short(world: World) -> Report:
    return evaluate(world, PretendedCollector(world.spec), SHORT)


def test_metrics_have_their_names_and_stand_between_their_references(report: Report) -> None:
    metrics = report.metrics
    assert metrics.keys() == NAMES
    for name, metric in metrics.items():
        assert metric.ci[0] <= metric.value <= metric.ci[1], name
        assert metric.lower_reference is not None, name
    value = {name: metric.value for name, metric in metrics.items()}
    assert value["next_gain"] == pytest.approx(value["next_psnr"] - value["copy_psnr"])
    assert value["rollout64_action_gap"] == pytest.approx(
        value["rollout64_psnr"] - value["rollout64_psnr_shuffled_actions"]
    )
    assert metrics["next_psnr"].lower_reference == value["copy_psnr"]
    assert metrics["rollout16_psnr"].upper_reference == value["tokenizer_psnr"]
    assert value["rollout16_psnr_k2"] == value["rollout16_psnr"]


def test_episodes_are_those_kept_for_reporting(report: Report) -> None:
    # Two batches of two: controls are swapped within a batch, so none is of one trajectory alone.
    assert len(report.seeds) == len(set(report.seeds)) == 4
    assert set(report.seeds) <= set(REPORTING_SEEDS[:100])
    assert report.scored == 8


def test_the_same_world_gets_the_same_metrics(folder: Path, short: Report) -> None:
    again = load(folder, "cpu", torch.float32)
    assert evaluate(again, PretendedCollector(again.spec), SHORT).metrics == short.metrics


def test_metrics_do_not_depend_on_how_many_batches_are_scored_at_once(
    world: World, collector: PretendedCollector, short: Report
) -> None:
    assert evaluate(world, collector, SHORT, workers=2) == short


def test_another_run_has_other_episodes(world: World, collector: PretendedCollector, short: Report) -> None:
    assert not set(evaluate(world, collector, SHORT, seed=1).seeds) & set(short.seeds)


def test_horizons_that_were_not_reached_are_left_out(short: Report) -> None:
    assert short.metrics.keys() == {name for name in NAMES if "64" not in name}


def test_metrics_can_be_of_another_number_of_passes(world: World, collector: PretendedCollector) -> None:
    metrics = evaluate(world, collector, SHORT, denoising_steps=4).metrics
    assert metrics["next_psnr"].value == metrics["next_psnr_k4"].value
    assert (
        metrics["rollout16_psnr"].value
        == metrics["rollout16_psnr_k4"].value
        != metrics["rollout16_psnr_k1"].value
    )


def test_a_world_that_remembers_no_place_has_no_metrics_of_one(tmp_path: Path) -> None:
    plain = load(tiny_world(tmp_path, tokenizer="frame"), "cpu", torch.float32)
    metrics = evaluate(plain, PretendedCollector(plain.spec), SHORT).metrics
    assert "scene_psnr" not in metrics
    assert "next_psnr_given_pose" in metrics


def test_a_source_without_poses_has_no_metrics_of_them(tmp_path: Path) -> None:
    blind = load(tiny_world(tmp_path, poses=False), "cpu", torch.float32)
    metrics = evaluate(blind, PretendedCollector(blind.spec), SHORT).metrics
    assert (
        not {"next_psnr_given_pose", "rollout16_psnr_given_pose", "pose16_metres", "scene_psnr"}
        & metrics.keys()
    )
    assert {"next_psnr", "rollout16_action_gap"} <= metrics.keys()


def test_another_source_is_refused(world: World, other_space: ControlSpace) -> None:
    spec = replace(world.spec, control_space=other_space)
    with pytest.raises(SourceError, match="its own source"):
        evaluate(world, PretendedCollector(spec), SMALL)


def test_progress_goes_from_nothing_to_all(world: World, collector: PretendedCollector) -> None:
    shares: list[float] = []
    evaluate(world, collector, SHORT, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
