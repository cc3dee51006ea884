"""How keys move cameras: by kernels as by torch, alone as in a batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kernels.compare import both, built, same
from tests.tiny import lively_world
from worldsim import camera
from worldsim.checkpoint import load_world
from worldsim.kernels.library import kernels_disabled
from worldsim.kernels.motion import supports
from worldsim.networks import Networks
from worldsim.sampling.control_batch import ControlTensors
from worldsim.sampling.motion import CameraMotion, move_cameras
from worldsim.sampling.world_state import WorldState, empty_state

pytestmark = built

COUNT = 96
FIELDS = ("twist", "pose_uncertainty", "poses", "planar", "to_previous")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return load_world(lively_world(tmp_path_factory.mktemp("move"))).networks


@pytest.fixture
def moved(networks: Networks, each_variant: None) -> Networks:
    networks.prepare(torch.float32)
    assert networks.motion_kernel is not None
    return networks


def lived(networks: Networks, seed: int = 0) -> tuple[WorldState, ControlTensors]:
    """Cameras all over the ground and beyond it that have moved about; a third of them has no key down."""
    chance, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    memory, walkable_map = empty_state(networks, COUNT), networks.walkable_map
    assert walkable_map is not None
    x0, y0, x1, y1 = walkable_map.config.bounds
    x, y = rng.uniform(x0 - 1, x1 + 1, COUNT), rng.uniform(y0 - 1, y1 + 1, COUNT)
    poses = [
        camera.from_planar(a, b, 1.3, c) for a, b, c in zip(x, y, rng.uniform(-4, 4, COUNT), strict=True)
    ]
    memory.poses = torch.from_numpy(np.stack([pose.reshape(4, 4) for pose in poses]))
    memory.motion_history = torch.randn(memory.motion_history.shape, generator=chance)
    memory.pose_uncertainty = torch.rand(COUNT, generator=chance)
    keys = (torch.rand(COUNT, networks.control_size, generator=chance) > 0.5).float()
    keys[::3] = 0
    return memory, ControlTensors(keys)


def row(memory: WorldState, lead: ControlTensors, number: int) -> tuple[WorldState, ControlTensors]:
    one = slice(number, number + 1)
    given = dataclasses.replace(
        lead,
        vector=lead.vector[one],
        poses=None if lead.poses is None else lead.poses[one],
        pose_mask=None if lead.pose_mask is None else lead.pose_mask[one],
    )
    return memory.pick(np.array([number])), given


def assert_alike(quick: CameraMotion, slow: CameraMotion) -> None:
    """But where a hair's breadth decides on which side of a cell's edge somebody stands or feels."""
    off = torch.zeros(len(quick.twist), dtype=torch.bool)
    for name in FIELDS:
        one, other = getattr(quick, name).double(), getattr(slow, name).double()
        off |= (
            ((one - other).abs() > 1e-4 * (1 + other.abs()))
            .flatten(1 if one.ndim > 1 else 0)
            .view(len(off), -1)
            .any(1)
        )
    assert off.float().mean() <= 0.05


@pytest.mark.parametrize("seed", range(4))
def test_cameras_go_where_torch_takes_them(moved: Networks, seed: int) -> None:
    memory, lead = lived(moved, seed)
    quick, slow = both(lambda: move_cameras(moved, memory, lead))
    assert_alike(quick, slow)
    assert (quick.poses != memory.poses).flatten(1).any(1).float().mean() > 0.9


def test_walls_hold_some_and_not_others(moved: Networks) -> None:
    memory, lead = lived(moved)
    walkable_map, motion_kernel = moved.walkable_map, moved.motion_kernel
    assert walkable_map is not None
    assert motion_kernel is not None
    move = move_cameras(moved, memory, lead)
    stood, stands = (walkable_map._is_ground(poses[:, :2, 3]) for poses in (memory.poses, move.poses))
    near = (move.poses - memory.poses)[:, :2, 3].norm(dim=1) < 0.7  # metres, in which ground is looked for
    assert stands[stood & near].all()
    assert 0 < stood.float().mean() < 1
    assert not stands[~stood].all()


def test_who_shares_the_batch_changes_nothing(moved: Networks) -> None:
    memory, lead = lived(moved)
    together = move_cameras(moved, memory, lead)
    for number in range(0, COUNT, 5):
        alone = move_cameras(moved, *row(memory, lead, number))
        for name in FIELDS:
            same(getattr(alone, name)[0], getattr(together, name)[number])


def test_a_given_pose_is_taken_and_others_move_as_without_it(moved: Networks) -> None:
    memory, lead = lived(moved)
    other, _ = lived(moved, seed=7)
    given = torch.arange(COUNT) % 4 == 1
    asked = dataclasses.replace(lead, poses=other.poses, pose_mask=given)
    free, quick = move_cameras(moved, memory, lead), move_cameras(moved, memory, asked)
    with kernels_disabled():
        slow = move_cameras(moved, memory, asked)
    assert_alike(quick, slow)
    same(quick.poses[given], other.poses[given])
    assert (quick.pose_uncertainty[given] == 0).all()
    for name in FIELDS:
        same(getattr(quick, name)[~given], getattr(free, name)[~given])


def test_what_dynamics_it_is_written_for() -> None:
    around = 16 * 6 + 16 + 16 * 4
    assert supports(275, (128, 256, 64), around, 6)
    assert not supports(275, (128, 250, 64), around, 6)
    assert not supports(275, (128, 2048, 64), around, 6)
    assert not supports(1025, (128, 256, 64), around, 6)
    assert not supports(275, (128, 256, 64), around - 1, 6)
    assert not supports(275, (128, 256, 64), around, 0)


@pytest.mark.slow
def test_a_world_without_ground_has_no_kernel_for_it(tmp_path: Path) -> None:
    networks = load_world(lively_world(tmp_path)).networks
    networks.walkable_map = None
    networks.prepare(torch.float32)
    assert networks.motion_kernel is None
