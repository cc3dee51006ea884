"""Environments beside other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import lively_world
from worldsim.bench.crowd import time_crowd
from worldsim.errors import EngineError


def test_environments_are_timed_in_company(tmp_path: Path) -> None:
    crowd = time_crowd(str(lively_world(tmp_path)), 0.2)
    assert min(crowd.alone_fps, crowd.busy_fps, crowd.four_fps) > 0
    assert crowd.busy_ratio == crowd.alone_fps / crowd.busy_fps
    assert crowd.four_share == crowd.four_fps / crowd.alone_fps


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match="no-such-world"):
        time_crowd("no-such-world", 0.1)
