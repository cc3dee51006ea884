"""Worlds for the environments' tests: one of known figures, and a tiny one of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.envs.fake_world import FakeWorld
from worldsim.engine.world import World, load
from worldsim.testing import tiny_world


@pytest.fixture
def fake() -> FakeWorld:
    return FakeWorld()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny world."""
    return tiny_world(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="session")
def tiny_loaded(tiny: Path) -> World:
    """The tiny world, loaded: float32, in which figures don't depend on the machine's speed."""
    return load(tiny, device="cpu", dtype=torch.float32)
