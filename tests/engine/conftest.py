"""Tiny lively worlds for the engine's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import lively_world
from worldsim.engine.world import World, load


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("worlds"), "tiny")


@pytest.fixture(scope="session")
def world(folder: Path) -> World:
    """With a place and poses."""
    return load(folder, "cpu", torch.float32)


@pytest.fixture(scope="session")
def poseless(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a per-frame tokenizer and without poses."""
    path = lively_world(tmp_path_factory.mktemp("worlds"), "poseless", tokenizer="frame", poses=False)
    return load(path, "cpu", torch.float32)


@pytest.fixture(scope="session")
def half(folder: Path) -> World:
    """The first world in bfloat16."""
    return load(folder, "cpu", torch.bfloat16)


@pytest.fixture(params=["world", "poseless", "half"])
def any_world(request: pytest.FixtureRequest) -> World:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, World)
    return made
