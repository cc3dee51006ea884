"""A place: occupancy from experience, rendering that learns, columns that are columns of the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.camera import Intrinsics
from worldsim.errors import ConfigError
from worldsim.scene.rays import Rays
from worldsim.scene.static_scene import StaticScene, StaticSceneConfig

CONFIG = StaticSceneConfig(
    bounds=(-1.0, -1.0, 5.0, 4.0),
    ceiling=2.0,
    clearance=1.0,
    cell=0.25,
    wall_cell=0.1,
    channels=6,
    hidden=16,
    samples=48,
    far=8.0,
)
RAYS = Rays.of(Intrinsics(20.0, 20.0, 16.0, 12.0), 24, 32)


@pytest.fixture
def scene() -> StaticScene:
    torch.manual_seed(0)
    return StaticScene(CONFIG)


def cameras(count: int, seed: int = 0) -> Tensor:
    """Poses [count, 4] well inside the room."""
    rng = np.random.default_rng(seed)
    low, high = (1.0, 1.0, 1.0, -3.1), (3.0, 2.0, 1.0, 3.1)
    return torch.from_numpy(rng.uniform(low, high, (count, 4))).float()


def workspace(planar: Tensor) -> tuple[Tensor, Tensor]:
    """A box of 4 x 3 x 2 m, drawn exactly: colour [B, R, N, 3] and forward depth [B, R, N]."""
    x, y, z, yaw = (value[:, None, None] for value in planar.unbind(-1))
    right, down = RAYS.right[None, None], RAYS.down[None, :, None]
    dx, dy = yaw.cos() + right * yaw.sin(), yaw.sin() - right * yaw.cos()
    to_x = torch.where(dx > 0, 4 - x, -x) / dx
    to_y = torch.where(dy > 0, 3 - y, -y) / dy
    to_level = torch.where(down > 0, z, 2 - z) / down.abs().clamp(min=1e-6)
    wall, depth = torch.minimum(to_x, to_y), torch.minimum(torch.minimum(to_x, to_y), to_level)
    on_wall = wall <= to_level
    colour = torch.stack([
        torch.where(on_wall, (2 * (x + dx * depth) + 2 * (y + dy * depth)).sin(), -0.5 + 0 * depth),
        torch.where(on_wall, (to_x < to_y).float() - 0.5, (3 * (x + dx * depth)).sin()),
        torch.where(down > 0, -0.7, 0.7) + 0 * depth,
    ], -1)  # fmt: skip
    return colour, depth


def test_shapes_and_bounds(scene: StaticScene) -> None:
    colour, reach = scene(cameras(3), RAYS)
    assert (colour.shape, reach.shape) == ((3, 24, 32, 3), (3, 24, 32))
    assert (reach >= 0).all()
    assert reach.isfinite().all()
    around = scene.features(cameras(3))
    assert around.shape == (3, CONFIG.feature_dim) == (3, 16 * 6 + 6)


def test_some_columns_are_those_of_the_whole(scene: StaticScene) -> None:
    planar = cameras(3)
    chosen = torch.tensor([[0, 5, 31], [7, 7, 8], [30, 2, 1]])
    colour, reach = scene(planar, RAYS)
    some_colour, some_reach = scene(planar, RAYS, chosen)
    for view in range(3):
        torch.testing.assert_close(some_colour[view], colour[view][:, chosen[view]], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(some_reach[view], reach[view][:, chosen[view]], atol=1e-5, rtol=1e-4)


def test_visited_cells_are_free_and_the_rest_is_solid(scene: StaticScene) -> None:
    visited = torch.tensor([[1.0, 1.5], [1.1, 1.5], [3.9, 0.1]])
    scene.init_occupancy(visited)
    occupancy = scene.occupancy[0, 0]
    columns, rows = ((visited + 1) / CONFIG.cell).long().T
    assert (occupancy[rows, columns] < 0).all()
    reach = round(CONFIG.clearance / CONFIG.cell)
    assert (occupancy[rows[0], columns[0] - reach : columns[0] + reach + 1] < 0).all()
    assert occupancy[-1, -1] > 0
    assert 0.1 < (occupancy < 0).float().mean() < 0.6


def test_gaps_between_visits_are_closed(scene: StaticScene) -> None:
    scene.init_occupancy(torch.tensor([[0.6, 1.5], [3.8, 1.5]]))  # each frees a metre around it
    assert (scene.occupancy[0, 0, 10, 4:22] < 0).all()


def test_rays_end_where_free_space_does(scene: StaticScene) -> None:
    x, y = torch.meshgrid(torch.arange(1.1, 2.95, 0.1), torch.arange(1.1, 1.95, 0.1), indexing="xy")
    scene.init_occupancy(torch.stack([x.flatten(), y.flatten()], -1))
    looking = torch.tensor([[2.0, 1.5, 1.0, yaw] for yaw in (0.0, np.pi / 2, np.pi, -np.pi / 2)])
    _, reach = scene(looking, RAYS)
    ahead = reach[:, 12, 16]
    torch.testing.assert_close(ahead, torch.tensor([2.0, 1.5, 2.0, 1.5]), atol=0.35, rtol=0)


def _walled(scene: StaticScene, at: float, rise: float = 20.0) -> None:
    """A straight wall across x = ``at``, where occupancy rises by ``rise`` a metre through its level."""
    x0, _, x1, _ = CONFIG.bounds
    width = scene.occupancy.shape[3]
    x = x0 + (torch.arange(width) + 0.5) * (x1 - x0) / width
    with torch.no_grad():
        scene.occupancy.copy_((1 + rise * (x - at)).expand_as(scene.occupancy))


def test_a_straight_wall_is_one_plane_from_wherever_it_is_seen(scene: StaticScene) -> None:
    _walled(scene, 3.3)
    yaw = torch.linspace(-1.0, 1.0, 21)
    planar = torch.stack([torch.tensor([x, 1.5, 1.0, one]) for x in (0.1, 1.7) for one in yaw])
    _, reach = scene(planar, RAYS)
    depth, right = reach[:, RAYS.horizon - 1], RAYS.right[None]  # just above the horizon there is wall alone
    forward = planar[:, 3:].cos() + right * planar[:, 3:].sin()
    hit = planar[:, :1] + forward * depth
    met = (forward > 0.25) & (depth < CONFIG.far * 0.9)
    assert met.float().mean() > 0.5
    torch.testing.assert_close(hit[met], torch.full_like(hit[met], 3.3), atol=0.004, rtol=0)


def test_what_is_seen_moves_the_surface_as_far_as_occupancy_does(scene: StaticScene) -> None:
    _walled(scene, 3.3)
    planar = torch.tensor([[1.0, 1.5, 1.0, 0.3]])
    _, reach = scene(planar, RAYS)
    row = reach[0, RAYS.horizon - 1]
    (slope,) = torch.autograd.grad(row.sum(), scene.occupancy)
    with torch.no_grad():
        scene.occupancy.add_(0.2)
        nearer = scene(planar, RAYS)[1][0, RAYS.horizon - 1]
    torch.testing.assert_close((nearer - row).sum(), 0.2 * slope.sum(), atol=0, rtol=0.02)


def test_surroundings_turn_with_the_camera(scene: StaticScene) -> None:
    scene.init_occupancy(torch.tensor([[0.6, 1.5], [1.3, 1.5], [2.0, 1.5]]))
    ahead, turned = scene.features(torch.tensor([[2.0, 1.5, 1.0, 0.0], [2.0, 1.5, 1.0, np.pi / 8]]))
    fan, fan_turned = ahead[: 16 * 6].reshape(16, 6), turned[: 16 * 6].reshape(16, 6)
    torch.testing.assert_close(fan_turned, fan.roll(-1, 0), atol=1e-3, rtol=1e-3)
    assert fan[0, -1] > 0 > fan[8, -1]  # solid ahead, free behind


@pytest.mark.slow
def test_rendering_a_room_converges(scene: StaticScene) -> None:
    torch.manual_seed(0)
    scene.init_occupancy(cameras(400)[:, :2])
    planes = [scene.ground_plane, scene.floor_ceiling_plane, scene.xz_plane, scene.yz_plane]
    groups = [
        {"params": [scene.occupancy], "lr": 1e-2},
        {"params": planes, "lr": 2e-2},
        {"params": scene.colour_mlp.parameters(), "lr": 3e-3},
    ]
    optimizer, losses = torch.optim.Adam(groups), []
    for step in range(150):
        planar = cameras(8, seed=step)
        loss = (scene(planar, RAYS)[0] - workspace(planar)[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    held_out = cameras(8, seed=9999)
    with torch.no_grad():
        colour, reach = scene(held_out, RAYS)
    true, depth = workspace(held_out)
    assert (colour - true).square().mean() < 0.25 * losses[0]
    assert (reach - depth).abs().median() < 0.3


@pytest.mark.parametrize("wrong", [{"bounds": (4.0, 0.0, 0.0, 3.0)}, {"ceiling": -1.0}])
def test_a_place_of_no_extent_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="static scene"):
        dataclasses.replace(CONFIG, **wrong)
