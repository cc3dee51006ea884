"""A tiny world of random weights and a pretended source for the yardstick's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import lively_world
from worldsim.camera import from_planar
from worldsim.controls import ControlSpace
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.spec import SourceSpec
from worldsim.engine.world import World, load


class PretendedPlayer:
    """Plays a corridor of stripes, deterministically: forward moves, turning turns.

    Every third episode is only 10 frames long.
    """

    def __init__(self, spec: SourceSpec, frames: int = 90) -> None:
        self.spec = spec
        self.frames = frames
        self.played: list[int] = []
        self.is_closed = False

    def play(self, seed: int) -> EpisodeArrays:
        self.played.append(seed)
        rng = np.random.default_rng(seed)
        length = 10 if seed % 3 == 2 else self.frames
        controls = np.zeros((length, self.spec.control_space.size), np.float32)
        controls[:, 0] = rng.random(length) < 0.5
        controls[:, -1] = rng.normal(size=length) * 0.05
        ways = np.concatenate([[0], np.cumsum(controls[:, 0])[:-1]])
        yaws = np.concatenate([[0], np.cumsum(controls[:, -1].astype(float))[:-1]])
        poses = from_planar(1.5 + 0.01 * ways, 2.0, 1.3, -yaws)
        height, width = self.spec.size
        ramp = np.arange(width)[None, None, :, None] * 3 + np.arange(height)[None, :, None, None]
        shades = ramp + (7 * ways)[:, None, None, None] + rng.integers(0, 256, 3)
        return EpisodeArrays(
            frames=(shades % 256).astype(np.uint8),
            controls=controls,
            poses=poses if self.spec.has_pose else None,
            rewards=np.zeros(length, np.float32),
            terminated=np.zeros(length, bool),
            truncated=np.arange(length) == length - 1,
            seed=seed,
        )

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="session")
def world(folder: Path) -> World:
    """In float32, so that a batch of another size gives the same frames."""
    return load(folder, "cpu", torch.float32)


@pytest.fixture
def player(world: World) -> PretendedPlayer:
    return PretendedPlayer(world.spec)


@pytest.fixture
def other_space() -> ControlSpace:
    return ControlSpace(keys=("left",), look=False, pose=False, combos=((), ("left",)))
