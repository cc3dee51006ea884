"""Worlds for the environments' tests: one of known figures, and a tiny one of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.envs.fake_world import FakeWorld


@pytest.fixture
def fake() -> FakeWorld:
    return FakeWorld()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny world."""
    from worldsim.checkpoint import tiny_world

    return Path(tiny_world(tmp_path_factory.mktemp("worlds"), name="tiny"))
