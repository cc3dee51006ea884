"""The exploration policies go everywhere, look ahead, and are fixed by their seed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldsim.camera import from_planar
from worldsim.controls import ActionBox, Control, ControlSpace
from worldsim.envs.coverage import Coverage
from worldsim.envs.exploration import (
    AlternatingPolicy,
    DepthFollowingPolicy,
    GoalSeekingPolicy,
    PolicyMixture,
    StickyRandomPolicy,
)
from worldsim.envs.floor_plan import FloorPlan
from worldsim.envs.sources import Observation
from worldsim.envs.sources.doom import DOOM_KEYS

SPACE = ControlSpace(
    keys=DOOM_KEYS, yaw=True, pose=True, discrete_actions=((), *((key,) for key in DOOM_KEYS))
)
TWO_ROOMS = np.array([
    [0, 0, 20, 0], [20, 0, 20, 8], [20, 8, 0, 8], [0, 8, 0, 0],
    [10, 0, 10, 3], [10, 5, 10, 8],
], dtype=np.float64)  # fmt: skip
"""Twenty metres by eight, with a wall across that has a door of two metres."""


class Walker:
    """A body that walks through TWO_ROOMS as the keys say, without inertia."""

    def __init__(self, plan: FloorPlan, x: float, y: float, yaw: float) -> None:
        self._plan = plan
        self.x, self.y, self.yaw = x, y, yaw

    def see(self) -> Observation:
        column = np.array([self._depth(angle) for angle in np.linspace(0.7, -0.7, 16)], dtype=np.float32)
        pose = from_planar(self.x, self.y, 1.3, self.yaw)
        return Observation(np.zeros((12, 16, 3), np.uint8), pose, depth=np.tile(column, (12, 1)))

    def go(self, control: Control) -> None:
        self.yaw += 0.1 * (("turn_left" in control.keys) - ("turn_right" in control.keys)) - control.yaw
        ahead = 0.3 * (("forward" in control.keys) - ("backward" in control.keys))
        aside = 0.3 * (("strafe_left" in control.keys) - ("strafe_right" in control.keys))
        x = self.x + ahead * np.cos(self.yaw) - aside * np.sin(self.yaw)
        y = self.y + ahead * np.sin(self.yaw) + aside * np.cos(self.yaw)
        for place in ((x, y), (x, self.y), (self.x, y)):  # it slides along walls
            if self._plan.free[self._plan.cell_of(np.array(place))]:
                self.x, self.y = place
                break

    def _depth(self, angle: float) -> float:
        direction = np.array((np.cos(self.yaw + angle), np.sin(self.yaw + angle)))
        starts, along = TWO_ROOMS[:, :2] - (self.x, self.y), TWO_ROOMS[:, 2:] - TWO_ROOMS[:, :2]
        cross = direction[0] * along[:, 1] - direction[1] * along[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (starts[:, 0] * along[:, 1] - starts[:, 1] * along[:, 0]) / cross
            s = (starts[:, 0] * direction[1] - starts[:, 1] * direction[0]) / cross
        hits = t[(t > 0) & (s >= 0) & (s <= 1)]
        return float(hits.min() * np.cos(angle)) if hits.size else 30.0


@pytest.fixture
def plan() -> FloorPlan:
    return FloorPlan(TWO_ROOMS, (3.0, 4.0))


def test_the_plan_keeps_clear_of_walls_and_passes_doors(plan: FloorPlan) -> None:
    assert plan.shape == (40, 16)
    assert plan.free[plan.cell_of(np.array((17, 4)))]
    assert plan.free[plan.cell_of(np.array((10, 4)))]
    assert not plan.free[plan.cell_of(np.array((10, 1)))]
    assert not plan.free[plan.cell_of(np.array((0.2, 4)))]
    shut = FloorPlan(np.vstack([TWO_ROOMS, [[10, 0, 10, 8]]]), (3.0, 4.0))
    assert not shut.free[shut.cell_of(np.array((17, 4)))]


def test_the_path_leads_through_the_door(plan: FloorPlan) -> None:
    steps = plan.distances(plan.cell_of(np.array((17, 1))))
    path = np.array(plan.path(np.array((3.0, 1.0)), steps, 1000))
    assert np.linalg.norm(path[-1] - (17, 1)) < 0.5
    at_the_wall = path[np.abs(path[:, 0] - 10) < 0.3]
    assert np.all((at_the_wall[:, 1] > 3) & (at_the_wall[:, 1] < 5))
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 0.75


def walk(plan: FloorPlan, seed: int, frames: int) -> tuple[np.ndarray, list[Control]]:
    """Camera path of the policy, and the keys it presses."""
    walker = Walker(plan, 3, 4, 0)
    policy = PolicyMixture(SPACE, plan, np.random.default_rng(seed))
    poses, controls = [], []
    for _ in range(frames):
        seen = walker.see()
        controls.append(policy.act(seen))
        poses.append(seen.pose)
        walker.go(controls[-1])
    return np.stack(poses), controls  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_mixture_covers_all_rooms_evenly(plan: FloorPlan) -> None:
    poses = np.concatenate([walk(plan, seed, 600)[0] for seed in range(3)])
    coverage = Coverage(poses, plan)
    assert coverage.share > 0.6
    assert coverage.evenness > 0.8
    in_first_room = (poses[:, 0, 3] < 10).mean()
    assert 0.25 < in_first_room < 0.75


@pytest.mark.slow
def test_the_mixture_uses_every_key_and_some_mouse(plan: FloorPlan) -> None:
    controls = [control for seed in range(4) for control in walk(plan, seed, 400)[1]]
    share = {key: np.mean([key in control.keys for control in controls]) for key in DOOM_KEYS}
    assert min(share.values()) > 0.03
    assert share["forward"] > 0.3
    assert 0.05 < np.mean([control.yaw != 0 for control in controls]) < 0.4
    assert all(SPACE.vector(control)[-1] == np.float32(control.yaw) for control in controls)


def test_the_mixture_is_fixed_by_its_seed(plan: FloorPlan) -> None:
    assert walk(plan, 5, 150)[1] == walk(plan, 5, 150)[1]
    assert walk(plan, 5, 150)[1] != walk(plan, 6, 150)[1]


def test_the_seeker_arrives_and_looks_around(plan: FloorPlan) -> None:
    visits = np.where(plan.centres[..., 0] < 14, 1e6, 0.0)  # all but the far end has been seen
    walker = Walker(plan, 3, 4, 2.0)
    seeker = GoalSeekingPolicy(plan, visits, np.random.default_rng(0))
    for _ in range(400):
        if seeker.done():
            break
        intent = seeker.act(walker.see())
        turn = {"turn_right"} if intent.turn > 0.07 else {"turn_left"} if intent.turn < -0.07 else set()
        walker.go(Control(intent.keys | turn))
    assert seeker.done()
    assert walker.x > 13


def test_the_explorer_turns_away_from_walls(plan: FloorPlan) -> None:
    walker = Walker(plan, 3, 4, 0)
    explorer = DepthFollowingPolicy(np.random.default_rng(0), 300, np.pi / 2)
    near = 0
    for _ in range(300):
        seen = walker.see()
        assert seen.depth is not None
        near += seen.depth[6, 8] < 1
        intent = explorer.act(seen)
        turn = {"turn_right"} if intent.turn > 0.07 else {"turn_left"} if intent.turn < -0.07 else set()
        walker.go(Control(intent.keys | turn))
    assert explorer.done()
    assert near < 100


def test_a_rhythm_holds_two_actions_in_turns() -> None:
    space = ControlSpace(keys=("a", "b"), yaw=False, pose=False, discrete_actions=((), ("a",), ("b",)))
    seen = Observation(np.zeros((4, 4, 3), np.uint8))
    for seed in range(5):
        rhythm = AlternatingPolicy(space, np.random.default_rng(seed), 300)
        keys = [rhythm.act(seen).keys for _ in range(300)]
        assert rhythm.done()
        assert len(set(keys)) == 2
        lengths = [len(list(run)) for _, run in itertools.groupby(keys)][:-1]
        assert all(3 <= length <= 105 for length in lengths)
        assert max(lengths) <= 3.1 * min(lengths)


def test_without_a_map_random_keys_and_rhythms_remain() -> None:
    space = ControlSpace(keys=("a", "b"), yaw=False, pose=False, discrete_actions=((), ("a",), ("b",)))
    policy = PolicyMixture(space, None, np.random.default_rng(0))
    seen = Observation(np.zeros((4, 4, 3), np.uint8))
    controls = [policy.act(seen) for _ in range(5000)]
    for key in space.keys:
        assert 0.1 < np.mean([key in control.keys for control in controls]) < 0.7
    changes = sum(a != b for a, b in itertools.pairwise(controls))
    assert changes < 1000  # keys are held
    assert all(control.yaw == 0 for control in controls)


def test_continuous_actions_are_held_and_reach_the_bounds() -> None:
    box = ActionBox(low=(-1.0, 0.0), high=(1.0, 2.0))
    seen = Observation(np.zeros((4, 4, 3), np.uint8))
    for keys, least, most in (((), 1, 1), (("a", "b"), 0.2, 0.8)):
        actions = ((), *((key,) for key in keys))
        space = ControlSpace(keys=keys, yaw=False, pose=False, discrete_actions=actions, action=box)
        policy = PolicyMixture(space, None, np.random.default_rng(0))
        controls = [policy.act(seen) for _ in range(5000)]
        for control in controls:
            space.validate(control)
            assert control.action is None or not control.keys
        found = [control.action for control in controls if control.action is not None]
        assert least <= len(found) / 5000 <= most
        assert {(-1.0, 0.0), (1.0, 2.0), (0.0, 0.0)} <= set(found)
        assert sum(a != b for a, b in itertools.pairwise(found)) < 1000  # actions are held


def test_sticky_random_ends() -> None:
    random = StickyRandomPolicy(SPACE, np.random.default_rng(0), 3)
    seen = Observation(np.zeros((4, 4, 3), np.uint8))
    for _ in range(3):
        assert not random.done()
        random.act(seen)
    assert random.done()


def test_coverage_is_drawn_with_and_without_a_map(tmp_path: Path, plan: FloorPlan) -> None:
    poses = from_planar(np.full(5, 3.0), np.full(5, 4.0), 1.0, 0.0)
    coverage = Coverage(poses, plan)
    assert coverage.share == pytest.approx(1 / plan.free.sum())
    assert coverage.evenness == 0
    coverage.save(tmp_path / "map.png")
    assert Image.open(tmp_path / "map.png").size == (40 * 12, 16 * 12)
    free = Coverage(from_planar([0.1, 2.1], [0.1, 0.1], 1.0, 0.0), None)
    assert free.share == 1
    assert free.evenness == pytest.approx(1)
    free.save(tmp_path / "free.png")
