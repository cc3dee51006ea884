"""A part of the yardstick that fails is reported, and the others are measured all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import PretendedPlayer, StagedPlayer
from worldsim.engine.world import World
from worldsim.errors import SourceError, StorageError
from worldsim.evaluation import drift, outcomes, run
from worldsim.evaluation.failures import Failures
from worldsim.evaluation.parts import Sizes
from worldsim.evaluation.trajectories import ShortEpisodesError, collect_longest
from worldsim.evaluation.yardstick import Scope, evaluate

SCOPE = Scope(
    trajectories=2,
    teacher=4,
    every=2,
    horizon=16,
    parts=Sizes(loops=1, seconds=(1, 60), endings=2, walks=1, frames=8, walk_steps=1),
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


def test_the_other_parts_are_measured(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = StagedPlayer(world.spec)
    monkeypatch.setattr(outcomes, "score_outcomes", fail)
    monkeypatch.setattr(drift, "play_figures", fail)
    report = evaluate(world, staged, SCOPE, stage=staged.source, steps=1, workers=2)
    assert report.failures.keys() == {"ends", "play", "loop60"}
    assert report.failures["ends"] == "ValueError: a bug"
    assert "at least" in report.failures["loop60"]
    assert {"tokenizer_psnr", "open16_true", "idle_psnr", "loop1_psnr"} <= report.figures.keys()
    assert "end_auroc" not in report.figures


def test_long_dreams_of_short_episodes_are_a_part_that_fails(world: World, player: PretendedPlayer) -> None:
    report = evaluate(world, player, replace(SCOPE, long=2, parts=Sizes()))
    assert report.failures.keys() == {"long dreams"}
    assert "1028 frames" in report.failures["long dreams"]


def test_dreams_are_as_long_as_half_of_the_episodes(world: World) -> None:
    player = PretendedPlayer(world.spec, 30)  # every third episode has ten frames
    report = evaluate(world, player, replace(SCOPE, horizon=256, teacher=64, parts=Sizes()))
    assert report.length == 30
    assert report.scores["true.psnr"].shape == (2, 26)
    assert "open16_true" in report.figures
    assert "open64_true" not in report.figures
    assert not report.failures
    assert collect_longest(player, iter(range(100)), 2, 500, 5).frames.shape[1] == 30


def test_a_source_of_no_frames_to_dream_is_one_error(world: World) -> None:
    with pytest.raises(SourceError, match="half of a source's episodes must have 6 frames"):
        evaluate(world, PretendedPlayer(world.spec, 3), replace(SCOPE, parts=Sizes()))
    with pytest.raises(ShortEpisodesError, match="6 frames or more"):
        collect_longest(PretendedPlayer(world.spec, 3), iter(range(100)), 2, 20, 6)


@pytest.fixture
def folder_and_player(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "open_player", lambda world, frames, labels: PretendedPlayer(world.spec, 90))
    return folder


def test_figures_are_told_even_if_they_cannot_be_saved(
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
    assert np.isfinite(told["figures"]["next_psnr"]["value"])


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
