from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.conftest import PretendedPlayer
from worldsim.checkpoint import tiny_world
from worldsim.controls import ControlSpace
from worldsim.engine.world import World, load
from worldsim.errors import SourceError
from worldsim.evaluation.trajectories import REPORTING_SEEDS
from worldsim.evaluation.yardstick import Report, Scope, evaluate

SMALL = Scope(trajectories=3, teacher=8, every=4, horizon=64, batch=2)
SHORT = replace(SMALL, horizon=16)
NAMES = {
    "tokenizer_psnr", "next_psnr", "copy_psnr", "next_gain", "next_psnr_pose", "place_psnr", "warp_psnr",
    "open16_true", "open16_shuffled", "open16_gap", "open16_pose",
    "open64_true", "open64_shuffled", "open64_gap", "open64_pose", "sharp64", "motion64",
    "pose16_metres", "pose16_degrees", "pose64_metres", "pose64_degrees",
    "next_psnr_k1", "next_psnr_k2", "next_psnr_k4", "open16_k1", "open16_k2", "open16_k4",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(world: World) -> Report:
    return evaluate(world, PretendedPlayer(world.spec), SMALL)


@pytest.fixture(scope="module")
def short(world: World) -> Report:
    return evaluate(world, PretendedPlayer(world.spec), SHORT)


def test_figures_have_their_names_and_stand_between_floor_and_ceiling(report: Report) -> None:
    figures = report.figures
    assert figures.keys() == NAMES
    for name, figure in figures.items():
        assert figure.ci[0] <= figure.value <= figure.ci[1], name
        assert figure.floor is not None, name
    value = {name: figure.value for name, figure in figures.items()}
    assert value["next_gain"] == pytest.approx(value["next_psnr"] - value["copy_psnr"])
    assert value["open64_gap"] == pytest.approx(value["open64_true"] - value["open64_shuffled"])
    assert figures["next_psnr"].floor == value["copy_psnr"]
    assert figures["open16_true"].ceiling == value["tokenizer_psnr"]
    assert value["open16_k2"] == value["open16_true"]


def test_episodes_are_those_kept_for_reporting(report: Report) -> None:
    # Two batches of two: controls are swapped within a batch, so none is of one trajectory alone.
    assert len(report.seeds) == len(set(report.seeds)) == 4
    assert set(report.seeds) <= set(REPORTING_SEEDS[:100])
    assert report.scored == 8


def test_the_same_world_gets_the_same_figures(folder: Path, short: Report) -> None:
    again = load(folder, "cpu", torch.float32)
    assert evaluate(again, PretendedPlayer(again.spec), SHORT).figures == short.figures


def test_figures_do_not_depend_on_how_many_batches_are_scored_at_once(
    world: World, player: PretendedPlayer, short: Report
) -> None:
    assert evaluate(world, player, SHORT, workers=2) == short


def test_another_run_has_other_episodes(world: World, player: PretendedPlayer, short: Report) -> None:
    assert not set(evaluate(world, player, SHORT, seed=1).seeds) & set(short.seeds)


def test_horizons_that_were_not_reached_are_left_out(short: Report) -> None:
    assert short.figures.keys() == {name for name in NAMES if "64" not in name}


def test_figures_can_be_of_another_number_of_passes(world: World, player: PretendedPlayer) -> None:
    figures = evaluate(world, player, SHORT, steps=4).figures
    assert figures["next_psnr"].value == figures["next_psnr_k4"].value
    assert figures["open16_true"].value == figures["open16_k4"].value != figures["open16_k1"].value


def test_a_world_that_remembers_no_place_has_no_figures_of_one(tmp_path: Path) -> None:
    plain = load(tiny_world(tmp_path, tokenizer="frame"), "cpu", torch.float32)
    figures = evaluate(plain, PretendedPlayer(plain.spec), SHORT).figures
    assert "place_psnr" not in figures
    assert "next_psnr_pose" in figures


def test_a_source_without_poses_has_no_figures_of_them(tmp_path: Path) -> None:
    blind = load(tiny_world(tmp_path, poses=False), "cpu", torch.float32)
    figures = evaluate(blind, PretendedPlayer(blind.spec), SHORT).figures
    assert not {"next_psnr_pose", "open16_pose", "pose16_metres", "place_psnr"} & figures.keys()
    assert {"next_psnr", "open16_gap"} <= figures.keys()


def test_another_source_is_refused(world: World, other_space: ControlSpace) -> None:
    spec = replace(world.spec, control_space=other_space)
    with pytest.raises(SourceError, match="its own source"):
        evaluate(world, PretendedPlayer(spec), SMALL)


def test_progress_goes_from_nothing_to_all(world: World, player: PretendedPlayer) -> None:
    shares: list[float] = []
    evaluate(world, player, SHORT, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
