"""A tiny world of random weights and a pretended source for the evaluation's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import lively_world
from worldsim.camera import from_planar
from worldsim.controls import Control, ControlSpace
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.spec import SourceSpec
from worldsim.engine.world import World, load
from worldsim.envs.sources import Observation
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.evaluation.drift import random_controls
from worldsim.evaluation.idm.model import InverseDynamicsModel
from worldsim.evaluation.idm.network import IDMConfig, IDMNetwork
from worldsim.evaluation.simulator import BranchPoint, branch_points


class PretendedCollector:
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
def collector(world: World) -> PretendedCollector:
    return PretendedCollector(world.spec)


@pytest.fixture
def other_space() -> ControlSpace:
    return ControlSpace(keys=("left",), yaw=False, pose=False, discrete_actions=((), ("left",)))


class PretendedSimulator:
    """A square room with striped walls, steered by keys: it moves at once and stops at once."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self._at = np.zeros(3)

    def reset(self, seed: int) -> Observation:
        self._at = np.array([2.0, 2.0, 0.3 * (seed % 7)])
        return self._seen()

    def step(self, control: Control) -> Observation:
        x, y, yaw = self._at
        ahead = ("forward" in control.keys) - float("backward" in control.keys)
        right = ("strafe_right" in control.keys) - float("strafe_left" in control.keys)
        turn = 0.1 * (("turn_right" in control.keys) - float("turn_left" in control.keys)) + control.yaw
        x += 0.1 * (ahead * np.cos(yaw) + right * np.sin(yaw))
        y += 0.1 * (ahead * np.sin(yaw) - right * np.cos(yaw))
        self._at = np.array([np.clip(x, 0.5, 3.5), np.clip(y, 0.5, 3.5), yaw - turn])
        return self._seen()

    def _seen(self) -> Observation:
        x, y, yaw = self._at
        height, width = self.spec.size
        column = yaw - np.arange(width) / width * 1.5
        shade = 128 + 60 * np.sin(8 * column) + 20 * np.sin(3 * x + 2 * y)
        frame = np.broadcast_to(shade[None, :, None], (height, width, 3)).astype(np.uint8)
        return Observation(frame.copy(), from_planar(x, y, 1.3, yaw))


class RoomCollector:
    """Plays the room with random keys; every second episode ends by itself."""

    def __init__(self, spec: SourceSpec, frames: int = 90) -> None:
        self.spec, self.frames = spec, frames
        self.source = PretendedSimulator(spec)
        self.is_closed = False

    def play(self, seed: int) -> EpisodeArrays:
        space, seen = self.spec.control_space, [self.source.reset(seed)]
        rows = random_controls(space, np.random.default_rng(seed), self.frames)
        for row in rows[:-1]:
            seen.append(self.source.step(space.from_vector(row)))
        is_last = np.arange(len(rows)) == len(rows) - 1
        return EpisodeArrays(
            frames=np.stack([row.frame for row in seen]),
            controls=rows,
            poses=np.stack([row.pose for row in seen if row.pose is not None]),
            rewards=is_last.astype(np.float32) * (seed % 2),
            terminated=is_last & (seed % 2 == 1),
            truncated=is_last & (seed % 2 == 0),
            seed=seed,
        )

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(scope="session")
def idm() -> InverseDynamicsModel:
    """One that has learnt nothing."""
    torch.manual_seed(0)
    return InverseDynamicsModel(
        IDMNetwork(IDMConfig(keys=DOOM_KEYS, column_channels=8, feature_dim=4)), "doom-maze", {"forward": 0.5}
    )


@pytest.fixture
def room_collector(world: World) -> RoomCollector:
    return RoomCollector(world.spec)


@pytest.fixture
def found(room_collector: RoomCollector) -> list[BranchPoint]:
    """Moments of three episodes, with 20 controls after each."""
    return branch_points(room_collector, iter(range(3)), 3, 4, 20)
