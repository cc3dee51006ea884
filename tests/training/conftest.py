"""A tiny dataset and tiny networks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.rooms import write_walks
from worldsim.data.clips import ClipStore
from worldsim.training.recipes import Recipe

LENGTHS = {1: 20, 2: 16, 20: 18}
"""Seed -> frames of the episodes; seed 20 is held out."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("data"), LENGTHS)


@pytest.fixture(scope="session")
def poseless_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("data"), LENGTHS, poses=False)


@pytest.fixture(scope="session")
def moving_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with poses that is no static scene."""
    return write_walks(tmp_path_factory.mktemp("data"), LENGTHS, static=False)


@pytest.fixture(scope="session")
def clips(data: Path) -> ClipStore:
    return ClipStore(data)


@pytest.fixture(scope="session")
def held_out(data: Path) -> ClipStore:
    return ClipStore(data, split="held_out")


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        width=16,
        layers=2,
        heads=2,
        context=3,
        tokenizer_width=8,
        tokenizer_depth=1,
        channels=4,
        scene_channels=4,
        batch=2,
        length=4,
    )
