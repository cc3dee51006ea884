"""Environments beside other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import lively_world
from worldsim.bench import contention
from worldsim.errors import EngineError


@pytest.mark.slow
def test_an_environment_is_timed_in_a_process_of_its_own(tmp_path: Path) -> None:
    with contention._busy():
        (fps,) = contention._side_by_side(str(lively_world(tmp_path)), 0.1, 1)
    assert fps > 0


def test_figures_are_of_one_process_alone_beside_a_busy_one_and_of_four(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {1: iter([[80.0], [50.0]]), 4: iter([[20.0, 20.0, 24.0, 16.0]])}
    monkeypatch.setattr(contention, "_side_by_side", lambda world, seconds, count: next(told[count]))
    found = contention.time_contention("any", 0.0)
    assert (found.alone_fps, found.busy_fps, found.four_fps) == (80.0, 50.0, 80.0)
    assert (found.busy_ratio, found.four_share) == (1.6, 1.0)


@pytest.mark.slow
def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match="no-such-world"):
        contention._side_by_side("no-such-world", 0.1, 1)
