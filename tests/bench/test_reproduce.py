"""A dream of a thousand frames, repeated to the bit through forks, parking, restores, rewinds and batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import lively_world
from worldsim.bench.reproduce import reproduce
from worldsim.engine.world import load


@pytest.mark.parametrize("poses", [True, False])
def test_every_frame_comes_again(tmp_path: Path, poses: bool) -> None:
    folder = lively_world(tmp_path, "tiny", tokenizer="history" if poses else "frame", poses=poses)
    frames = 1000 if poses else 100
    report = reproduce(load(folder, "cpu"), frames, name=str(folder))
    assert (report.mismatches, report.process) == (0, "same")
    assert {"fork", "park", "restore", "rewind", "batch of 1", "batch of 5"} <= set(report.events)


def test_so_does_every_frame_of_a_shipped_world() -> None:
    """Its layers are large enough for threads to share them, which those of a tiny world are not."""
    report = reproduce(load("doom-maze", "cpu"), 60)
    assert report.mismatches == 0
