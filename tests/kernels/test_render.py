"""A place looks to kernels as it does to torch, from wherever it is seen."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from tests.kernels.compare import SCENE, both, built, has_renderer, make_scene, same, threads
from worldsim.camera import Intrinsics
from worldsim.scene.rays import Rays
from worldsim.scene.static_scene import StaticScene

pytestmark = built

INSIDE = [(0.5, -0.25, 1.0, 0.3), (-0.6, 0.7, 0.4, -2.8), (1.7, -1.2, 1.6, 1.57), (0.1, 0.1, 1.0, 40.0)]
OUTSIDE = [
    (-3.0, -4.0, 1.0, 0.8),
    (2.5, 0.0, 1.0, math.pi),
    (30.0, 0.0, 1.0, 0.0),
    (0.5, 0.0, 3.0, 0.0),
    (0.5, 0.0, -1.0, 2.0),
    (0.0, 0.0, 2.0, -1.0),
]
BROKEN = [math.nan, math.inf, -math.inf, 3e38, 1e20, -1e9]


def rays(columns: int = 20, rows: int = 17, middle: float = 8.5) -> Rays:
    return Rays.of(Intrinsics(0.4 * columns, 14.0, 0.45 * columns, middle), rows, columns)


def quick(scene: StaticScene | None = None) -> StaticScene:
    scene = scene or make_scene()
    scene.enable_kernels()
    assert has_renderer(scene)
    return scene


def check_both_see_the_same(scene: StaticScene, planar: Tensor, seen: Rays) -> None:
    """Colours are about as wide as [-1, 1], lengths are metres."""
    (colour, reach), (true_colour, true_reach) = both(lambda: scene(planar, seen))
    assert colour.shape == true_colour.shape
    torch.testing.assert_close(reach, true_reach, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(colour, true_colour, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("columns", [1, 15, 16, 20, 48, 49, 160])
def test_it_looks_the_same_in_any_width(columns: int) -> None:
    check_both_see_the_same(quick(), torch.tensor(INSIDE), rays(columns))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("pose", OUTSIDE)
def test_it_looks_the_same_from_outside(pose: tuple[float, ...]) -> None:
    check_both_see_the_same(quick(), torch.tensor([pose]), rays())


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize(("rows", "middle"), [(1, 0.5), (1, -4.0), (9, 20.0), (9, -3.0), (24, 12.0)])
def test_it_looks_the_same_with_the_horizon_anywhere(rows: int, middle: float) -> None:
    check_both_see_the_same(quick(), torch.tensor(INSIDE), rays(rows=rows, middle=middle))


@pytest.mark.usefixtures("fenced")
@pytest.mark.parametrize("level", [-9.0, 9.0, 1.0])
def test_it_looks_the_same_where_all_is_free_or_solid(level: float) -> None:
    scene = make_scene()
    scene.occupancy.fill_(level)
    check_both_see_the_same(quick(scene), torch.tensor(INSIDE), rays())


@pytest.mark.usefixtures("fenced")
@pytest.mark.parametrize("samples", [2, 9, 128])
def test_it_looks_the_same_in_as_many_samples(samples: int) -> None:
    scene = make_scene(dataclasses.replace(SCENE, samples=samples))
    check_both_see_the_same(quick(scene), torch.tensor(INSIDE), rays())


def test_rays_meet_walls_and_what_is_seen_has_colours() -> None:
    colour, reach = quick()(torch.tensor(INSIDE), rays(160))
    assert 0.2 < colour.std() < 5
    assert reach.min() < 0.5
    assert reach.max() > 1.5
    assert reach.std() > 0.1


@pytest.mark.usefixtures("each_variant")
def test_what_is_around_a_camera_is_the_same() -> None:
    scene, planar = quick(), torch.tensor([*INSIDE, *OUTSIDE])
    made, wanted = both(lambda: scene.features(planar))
    assert made.shape == wanted.shape == (len(planar), scene.config.feature_dim)
    assert wanted.std() > 0.2
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=0)
    for i in range(len(planar)):
        same(scene.features(planar[i : i + 1])[0], made[i])
    scene.features(torch.tensor([[value] * 4 for value in BROKEN]))


@pytest.mark.usefixtures("each_variant", "fenced")
def test_no_pose_is_too_odd_to_be_looked_from() -> None:
    scene, seen = quick(), rays(columns=50)
    odd = [[*pose[:i], value, *pose[i + 1 :]] for pose in INSIDE[:1] for i in range(4) for value in BROKEN]
    odd += [[value] * 4 for value in BROKEN]
    planar = torch.tensor([INSIDE[1], *odd, INSIDE[2]])
    colour, reach = scene(planar, seen)
    assert colour.shape == (len(planar), 17, 50, 3)
    for i in (0, -1):
        alone = scene(planar[[i]], seen)
        same((colour[[i]], reach[[i]]), alone)


@pytest.mark.usefixtures("each_variant")
def test_a_view_is_the_same_among_others_and_on_two_threads() -> None:
    scene, seen, planar = quick(), rays(columns=50), torch.tensor([*INSIDE, *OUTSIDE])
    colour, reach = scene(planar, seen)
    for i in range(len(planar)):
        same(scene(planar[i : i + 1], seen), (colour[i : i + 1], reach[i : i + 1]))
    with threads(2):
        same(scene(planar, seen), (colour, reach))
        same(scene(planar[:1], seen), (colour[:1], reach[:1]))


def test_poses_may_lie_anyhow_in_memory() -> None:
    scene, planar = quick(), torch.tensor(INSIDE)
    apart = planar.T.contiguous().T
    same(scene(apart, rays()), scene(planar, rays()))


def test_some_columns_are_read_the_slow_way() -> None:
    scene, planar = quick(), torch.tensor(INSIDE)
    colour, reach = scene(planar, rays())
    chosen = torch.tensor([[0, 5, 19]]).expand(len(planar), -1)
    some_colour, some_reach = scene(planar, rays(), chosen)
    torch.testing.assert_close(some_reach, reach[:, :, chosen[0]], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(some_colour, colour[:, :, chosen[0]], atol=1e-3, rtol=0)


def test_what_is_taught_gets_its_gradients() -> None:
    scene = quick(make_scene().requires_grad_(True))
    with torch.enable_grad():
        scene(torch.tensor(INSIDE), rays())[0].square().mean().backward()
    assert all(part.grad is not None and part.grad.any() for part in scene.parameters())


@pytest.mark.parametrize("sizes", [{"channels": 8}, {"hidden": 32}, {"channels": 32, "hidden": 128}])
def test_a_place_of_other_sizes_stays_as_it_is(sizes: dict[str, int]) -> None:
    scene = make_scene(dataclasses.replace(SCENE, **sizes))
    scene.enable_kernels()
    assert not has_renderer(scene)
    quick_way, slow_way = both(lambda: scene(torch.tensor(INSIDE), rays()))
    same(quick_way, slow_way)
