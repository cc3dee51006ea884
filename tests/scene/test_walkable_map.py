"""The footing: what was visited is ground, and nobody leaves it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.errors import ConfigError
from worldsim.scene.walkable_map import WalkableMap, WalkableMapConfig

coordinates = st.floats(-0.7, 4.7)


def workspace() -> WalkableMap:
    """Ground from (1, 1) to (3, 2), visited at every fifth of a metre."""
    walkable_map = WalkableMap(WalkableMapConfig(bounds=(0.0, 0.0, 4.0, 4.0)))
    x, y = torch.meshgrid(torch.arange(1.0, 3.01, 0.2), torch.arange(1.0, 2.01, 0.2), indexing="ij")
    walkable_map.mark_visited(torch.stack([x.flatten(), y.flatten()], -1).double())
    return walkable_map


def project(
    walkable_map: WalkableMap, start: tuple[float, float], wanted: tuple[float, float]
) -> list[float]:
    held = walkable_map.project(torch.tensor([start]).double(), torch.tensor([wanted]).double())
    return list(wanted) if held is None else held[0].tolist()


def test_gaps_between_visits_are_ground() -> None:
    walkable_map = workspace()
    inside = walkable_map.visited[17:31, 17:47]
    assert inside.all()
    assert walkable_map.visited.sum() < 1.3 * 16 * 32


def test_on_the_ground_everyone_goes_where_they_want() -> None:
    assert project(workspace(), (1.5, 1.5), (1.9, 1.3)) == pytest.approx([1.9, 1.3])


def test_a_wall_is_slid_along() -> None:
    x, y = project(workspace(), (1.5, 1.9), (1.83, 2.4))
    assert x == pytest.approx(1.83)
    assert y == pytest.approx(2.03, abs=0.07)


def test_who_is_put_off_the_ground_may_walk_there() -> None:
    assert project(workspace(), (3.7, 3.7), (3.5, 3.5)) == pytest.approx([3.5, 3.5])


@given(coordinates, coordinates)
def test_nobody_leaves_the_ground(x: float, y: float) -> None:
    walkable_map, at = workspace(), torch.tensor([[1.5, 1.5]]).double()
    for share in torch.linspace(0.2, 1, 9):
        wanted = at + (torch.tensor([[x, y]]).double() - at) * share
        step = wanted - at
        wanted = at + step * (0.5 / step.norm().clamp(min=0.5))
        held = walkable_map.project(at, wanted)
        at = wanted if held is None else held
        assert walkable_map.project(at, at) is None  # nothing to hold: it is on the ground


def test_a_row_is_held_alike_in_every_batch() -> None:
    walkable_map, start = workspace(), torch.tensor([[1.5, 1.5]]).double().repeat(9, 1)
    wanted = start + torch.linspace(-0.7, 0.7, 18).view(9, 2).double()
    whole = walkable_map.project(start, wanted)
    assert whole is not None
    for i in range(9):
        held = walkable_map.project(start[i : i + 1], wanted[i : i + 1])
        assert torch.equal(wanted[i : i + 1] if held is None else held, whole[i : i + 1])


def test_walls_are_felt_on_the_side_where_they_are() -> None:
    walkable_map = workspace()
    middle = walkable_map.walkable_features(torch.tensor([[2.0, 1.5, 1.3, 0.7]])).view(16, -1)
    assert middle.all()
    at_wall = torch.tensor([[2.0, 1.99, 1.3, 0.0]])  # the wall is to the left
    left, right = walkable_map.walkable_features(at_wall).view(16, -1)[[4, 12]]
    assert right.all()
    assert not left[1:].any()
    turned = walkable_map.walkable_features(at_wall + torch.tensor([0, 0, 0, torch.pi / 2])).view(16, -1)
    assert torch.equal(turned[0], left)


@pytest.mark.parametrize(
    "wrong", [{"bounds": (0.0, 0.0, 0.0, 1.0)}, {"bounds": (0.0, 0.0, 1.0, 1.0), "cell": 0.0}]
)
def test_a_footing_without_extent_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="walkable map"):
        WalkableMapConfig(**wrong)  # type: ignore[arg-type]  # that is what is tested
