"""A part of the evaluation suite that fails is reported, and the others are measured all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import PretendedCollector, RoomCollector
from worldsim.engine.world import World
from worldsim.errors import SourceError, StorageError
from worldsim.evaluation import drift, outcomes, run
from worldsim.evaluation.failures import Failures
from worldsim.evaluation.suite import EvalConfig, evaluate
from worldsim.evaluation.tasks import TaskSizes
from worldsim.evaluation.trajectories import ShortEpisodesError, collect_longest

CONFIG = EvalConfig(
    trajectories=2,
    teacher_forced_frames=4,
    score_every=2,
    horizon=16,
    tasks=TaskSizes(
        loops=1, seconds=(1, 60), endings=2, long_rollouts=1, frames=8, long_rollout_denoising_steps=1
    ),
)
SHORT = ["--quick", "--trajectories", "2", "--horizon", "16", "--device", "cpu", "--dtype", "float32"]


def fail(*_: object, **__: object) -> None:
    raise ValueError("a bug")


def test_failures_are_noted_and_the_block_is_left() -> None:
    failures = Failures()
    with failures.of("a"):
        fail()
    with failures.of("b"):
        raise SourceError("a rule", "a value")
    with failures.of("c"):
        pass
    assert failures == {"a": "ValueError: a bug", "b": "a rule; got 'a value'"}
    with pytest.raises(KeyboardInterrupt), failures.of("d"):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_the_other_parts_are_measured(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    room_collector = RoomCollector(world.spec)
    monkeypatch.setattr(outcomes, "score_outcomes", fail)
    monkeypatch.setattr(drift, "drift_metrics", fail)
    report = evaluate(
        world, room_collector, CONFIG, simulator=room_collector.source, denoising_steps=1, workers=2
    )
    assert report.failures.keys() == {"ends", "drift", "loop60"}
    assert report.failures["ends"] == "ValueError: a bug"
    assert "at least" in report.failures["loop60"]
    assert {"tokenizer_psnr", "rollout16_psnr", "idle_psnr", "loop_closure_1s_psnr"} <= report.metrics.keys()
    assert "end_auroc" not in report.metrics


@pytest.mark.slow
def test_long_rollouts_of_short_episodes_are_a_part_that_fails(
    world: World, collector: PretendedCollector
) -> None:
    report = evaluate(world, collector, replace(CONFIG, long_trajectories=2, tasks=TaskSizes()))
    assert report.failures.keys() == {"long rollouts"}
    assert "1028 frames" in report.failures["long rollouts"]


@pytest.mark.slow
def test_rollouts_are_as_long_as_half_of_the_episodes(world: World) -> None:
    collector = PretendedCollector(world.spec, 30)  # every third episode has ten frames
    report = evaluate(
        world, collector, replace(CONFIG, horizon=256, teacher_forced_frames=64, tasks=TaskSizes())
    )
    assert report.length == 30
    assert report.scores["true.psnr"].shape == (2, 26)
    assert "rollout16_psnr" in report.metrics
    assert "rollout64_psnr" not in report.metrics
    assert not report.failures
    assert collect_longest(collector, iter(range(100)), 2, 500, 5).frames.shape[1] == 30


def test_a_source_of_no_frames_to_rollout_is_one_error(world: World) -> None:
    with pytest.raises(SourceError, match="half of a source's episodes must have 6 frames"):
        evaluate(world, PretendedCollector(world.spec, 3), replace(CONFIG, tasks=TaskSizes()))
    with pytest.raises(ShortEpisodesError, match="6 frames or more"):
        collect_longest(PretendedCollector(world.spec, 3), iter(range(100)), 2, 20, 6)


@pytest.fixture
def folder_and_player(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        run, "open_collector", lambda world, frames, labels: PretendedCollector(world.spec, 90)
    )
    return folder


@pytest.mark.slow
def test_metrics_are_told_even_if_they_cannot_be_saved(
    folder_and_player: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "page_of", lambda *_: "\ud800")  # cannot be encoded

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        run.main([str(folder_and_player), *SHORT, "--json", "--out", str(tmp_path / "report")])
    told = json.loads(capsys.readouterr().out)
    assert np.isfinite(told["metrics"]["next_psnr"]["value"])


@pytest.mark.parametrize(("option", "name"), [("--out", "index.html"), ("--videos", "sheet.png")])
def test_outputs_are_tried_before_the_work_and_stay(
    folder_and_player: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    monkeypatch.setattr(run, "evaluate", fail)  # nothing is measured
    (tmp_path / name).write_text("kept")
    with pytest.raises(StorageError, match="overwritten unasked"):
        run.main([str(folder_and_player), *SHORT, option, str(tmp_path)])
    assert (tmp_path / name).read_text() == "kept"
    with pytest.raises(StorageError, match="the system must allow"):
        run.main([str(folder_and_player), *SHORT, option, str(tmp_path / name / "below")])
    with pytest.raises(ValueError, match="a bug"):
        run.main([str(folder_and_player), *SHORT, option, str(tmp_path), "--force"])
