"""Worlds in which things move: changed pixels, objects, episodes' lengths and ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.square import SIDE, SquareCollector, square_at
from worldsim.engine.world import World, load
from worldsim.errors import SourceError
from worldsim.evaluation import detector as detectors
from worldsim.evaluation.detector import Detector, find_detector, train_detector
from worldsim.evaluation.episode_lengths import (
    EPISODE_FRAMES,
    check_comparable,
    episode_length_metrics,
    episode_start,
    imagined_lengths,
)
from worldsim.evaluation.image_metrics import changed_pixels, psnr, squared_error
from worldsim.evaluation.objects import OBJECT_FRAMES, count_pixels, object_metrics
from worldsim.evaluation.outcomes import outcome_metrics
from worldsim.evaluation.suite import EvalConfig, Report, evaluate
from worldsim.evaluation.tasks import TaskSizes
from worldsim.evaluation.whole_episodes import EpisodeTools
from worldsim.testing import tiny_world

CONFIG = EvalConfig(
    trajectories=4, teacher_forced_frames=8, score_every=4, horizon=16, batch=2, tasks=TaskSizes(episodes=6)
)


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world without a scene."""
    folder = tiny_world(tmp_path_factory.mktemp("worlds"), tokenizer="frame", poses=False)
    return load(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def squares(moving: World) -> SquareCollector:
    return SquareCollector(moving.spec)


@pytest.fixture(scope="module")
def seer(squares: SquareCollector) -> Detector:
    episodes = map(squares.play, range(100, 200))
    return train_detector(episodes, ("square",), frames=150, updates=60, batch=8)


@pytest.fixture(scope="module")
def report(moving: World, squares: SquareCollector, seer: Detector) -> Report:
    return evaluate(
        moving, squares, CONFIG, tools=EpisodeTools(seer, squares.open_loop_controls), denoising_steps=1
    )


def test_changed_pixels_are_those_that_anyone_would_see() -> None:
    before = np.full((2, 3, 3), 100, np.uint8)
    now = before.copy()
    now[0, 0, 1], now[1, 2, 2], now[0, 2, 0] = 112, 113, 0
    assert changed_pixels(now, before).tolist() == [[False, False, True], [False, False, True]]
    everywhere = np.ones((2, 3), bool)
    assert -10 * np.log10(squared_error(now, before, everywhere) / 6) == pytest.approx(psnr(now, before))
    assert squared_error(now, before, changed_pixels(now, before)) < squared_error(now, before, everywhere)


def test_pixels_count_as_found_within_one_pixel() -> None:
    truth, told = np.zeros((2, 1, 12, 12), bool)
    truth[0, 2:4, 2:4] = True
    told[0, 3:5, 3:5] = True
    assert count_pixels(told, truth).tolist() == [[4, 4, 4, 4]]
    assert count_pixels(np.roll(told, 1, 2), truth).tolist() == [[2, 4, 2, 4]]
    assert count_pixels(np.roll(told, 6, 2), truth).tolist() == [[0, 4, 0, 4]]


def scores_of(real: np.ndarray, imagined: np.ndarray) -> dict[str, np.ndarray]:
    return {"real.objects": real, "true.objects": imagined, "static.objects": np.zeros_like(real)}


def test_objects_that_fade_lose_recall_and_pixels_but_no_precision() -> None:
    real = np.tile(np.array([10.0, 10, 10, 10]), (5, OBJECT_FRAMES, 2, 1))
    real[..., 1, :] = 0  # a kind that is never seen
    half = real / [2, 1, 2, 2]
    metrics = object_metrics(scores_of(real, half), ("ball", "ghost"))
    assert metrics["object_recall@8"].value == 0.5
    assert metrics["object_precision@8"].value == 1
    assert metrics["object_pixels_ratio@17_32"].value == 0.5
    assert metrics["object_recall@8"].upper_reference == 1
    assert not any("ghost" in name or "ball" in name for name in metrics)
    nothing = object_metrics(scores_of(real, real * [0, 1, 0, 0]), ("ball", "ghost"))
    assert nothing["object_recall@1"].value == 0
    assert "object_precision@1" not in nothing, "nothing told of is neither right nor wrong"


def test_kinds_count_alike_however_large_they_are() -> None:
    real = np.ones((3, OBJECT_FRAMES, 2, 4)) * [[[100.0], [1.0]]]
    imagined = real * [[[1.0, 1, 1, 1], [0, 1, 0, 0]]]
    metrics = object_metrics(scores_of(real, imagined), ("big", "small"))
    recalls = [metrics[f"{kind}_recall@4"].value for kind in ("object", "big", "small")]
    assert recalls == [0.5, 1, 0]


def test_the_best_of_several_draws_is_no_worse() -> None:
    rng = np.random.default_rng(0)
    real = np.tile(np.array([8.0, 8, 8, 8]), (6, 16, 1, 1))
    shares = rng.random((3, 6, 1, 1, 1))
    draws = [real * np.concatenate([share, np.ones_like(share)] * 2, -1) for share in shares]
    scores = scores_of(real, draws[0]) | {f"draw{i}.objects": draw for i, draw in enumerate(draws[1:], 1)}
    metrics = object_metrics(scores, ("ball",))
    best = np.max([draw[:, 0, 0, 0] for draw in draws], 0).mean() / 8
    assert metrics["object_recall_best@1"].value == pytest.approx(best)
    assert metrics["object_recall@1"].value == pytest.approx(shares.mean())
    assert shares.mean() < best


def test_trajectories_count_alike_however_large_their_objects_are() -> None:
    real = np.ones((2, 16, 1, 4)) * np.array([100.0, 2])[:, None, None, None]
    imagined = real * np.array([1.0, 0.5])[:, None, None, None]
    imagined[..., 1] = real[..., 1]
    assert object_metrics(scores_of(real, imagined), ("ball",))["object_recall@2"].value == 0.75


@pytest.mark.slow
def test_a_detector_sees_what_it_learnt(seer: Detector, moving: World) -> None:
    rng = np.random.default_rng(9)
    rows, columns = rng.integers(2, 30, (2, 20))
    frames, masks = square_at(moving.spec, rows, columns)
    found, truth, right, told = count_pixels(seer.find(frames), seer.truth({"square": masks})).sum((0, 1))
    assert truth == 20 * SIDE**2
    assert found / truth > 0.9
    assert right / told > 0.9
    assert np.array_equal(seer.find(frames[None])[0], seer.find(frames))


def test_a_detector_is_kept_and_a_damaged_one_made_again(
    squares: SquareCollector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = find_detector(squares, frames=40, updates=2)
    (path,) = (tmp_path / "worldsim" / "detectors").iterdir()
    kept = path.read_bytes()
    monkeypatch.setattr(detectors, "train_detector", None)
    again = find_detector(squares, frames=40, updates=2)
    assert first is not None
    assert again is not None
    frames = squares.play(3).frames
    assert np.array_equal(first.find(frames), again.find(frames))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path.write_bytes(kept[:50])
    find_detector(squares, frames=40, updates=2)
    assert path.read_bytes() == kept


@pytest.mark.slow
def test_a_world_that_moves_has_its_metrics(report: Report) -> None:
    assert {
        "tokenizer_psnr_changed", "next_psnr_changed", "copy_psnr_changed", "rollout16_psnr_best_of_4",
        "object_recall@1", "object_recall@16", "object_recall_best@16", "tokenizer_object_recall",
        "episode_length_ratio", "episode_length_ratio_p50", "end_auroc", "end_recall", "end_brier",
    } <= report.metrics.keys()  # fmt: skip
    for name, metric in report.metrics.items():
        assert np.isfinite(metric.value), name
        assert metric.ci[0] <= metric.value <= metric.ci[1], name
    value = {name: metric.value for name, metric in report.metrics.items()}
    assert value["rollout16_psnr_best_of_4"] >= value["rollout16_psnr"]
    assert value["copy_psnr_changed"] < value["copy_psnr"]
    assert report.metrics["object_recall@16"].lower_reference == 0, "the square has gone on"
    assert report.metrics["object_recall@16"].upper_reference == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_what_does_not_apply_is_left_out_and_told(
    moving: World, squares: SquareCollector, report: Report
) -> None:
    assert "objects" not in report.failures
    plain = evaluate(moving, squares, CONFIG, denoising_steps=1)
    assert "must tell where objects are seen" in plain.failures["objects"]
    assert "without seeing" in plain.failures["lengths"]
    assert not any("object" in name or "episode" in name for name in plain.metrics)


def test_lengths_of_imagined_episodes(moving: World, squares: SquareCollector) -> None:
    given = [episode_start(squares.play(seed), squares.open_loop_controls) for seed in range(5)]
    begun = [one for one in given if one is not None]
    scores = imagined_lengths(moving, begun, 1, 0)
    assert scores["real"].tolist() == [40, 47, 54, 41, 48]
    assert ((scores["imagined"] >= 4) & (scores["imagined"] <= EPISODE_FRAMES)).all()
    alone = imagined_lengths(moving, begun[2:3], 1, 2)
    assert alone["imagined"] == scores["imagined"][2:3], "a world's chance is its own"
    same = episode_length_metrics({"imagined": scores["real"], "real": scores["real"]})
    assert {metric.value for metric in same.values()} == {1.0}
    half = episode_length_metrics({"imagined": scores["real"] / 2, "real": scores["real"]})
    assert half["episode_length_ratio_p90"].value == 0.5


@pytest.mark.slow
def test_lengths_are_the_same_with_a_detector(moving: World, squares: SquareCollector) -> None:
    given = [episode_start(squares.play(seed), squares.open_loop_controls) for seed in range(4)]
    begun = [one for one in given if one is not None]
    detector = find_detector(squares, frames=40, updates=2)
    assert detector is not None
    plain, watched = imagined_lengths(moving, begun, 1, 0), imagined_lengths(moving, begun, 1, 0, detector)
    assert np.array_equal(plain["imagined"], watched["imagined"])
    assert watched["real_before_end"].shape == (4, len(detector.kinds))
    ended = watched["imagined"] < watched["imagined"].max()
    assert np.isfinite(watched["imagined_before_end"][ended]).all()


def test_lengths_need_ends_and_a_blind_policy(squares: SquareCollector) -> None:
    assert episode_start(squares.play(0), lambda seed, frames: None) is None
    with pytest.raises(SourceError, match="end by themselves"):
        check_comparable([], 1, 6)
    with pytest.raises(SourceError, match="without seeing"):
        check_comparable([], 6, 6)


def test_recall_of_ends_is_at_a_precision() -> None:
    is_end = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], float)
    told = np.array([[0.1, 0.1, 0.9], [0.1, 0.8, 0.1], [0.7, 0.1, 0.1], [0.1, 0.1, 0.6], [0.75, 0.1, 0.1]])
    scores = {"end": told, "is_end": is_end > 0, "reward": told, "got": told}
    # Four of five ends lie above 0.6, one false alarm among them: 4 of 5 are right.
    assert outcome_metrics(scores)["end_recall"].value == pytest.approx(0.8)
    flat = scores | {"end": np.full_like(told, 0.5)}
    assert outcome_metrics(flat)["end_recall"].value == 0
