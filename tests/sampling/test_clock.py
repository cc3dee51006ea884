"""Two clocks: a unit of several frames answers each control, and nobody sees what was discarded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.walks import assert_same
from tests.tiny import lively_world, stir
from worldsim import camera
from worldsim.checkpoint import load_world, save_world
from worldsim.controls import Control
from worldsim.engine import Session, World, load
from worldsim.networks import Networks
from worldsim.training.world_model_objective import group_by_unit
from worldsim.units import CubeUnit, CubeUnitConfig

AHEAD, LEFT = Control({"forward"}), Control({"turn_left"})
WORLDS = {"place": ("history", True), "past": ("history", False), "frame": ("frame", True)}


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose units have two frames."""
    tokenizer, poses = WORLDS[request.param]
    folder: Path = lively_world(tmp_path_factory.mktemp("cube"), tokenizer=tokenizer, poses=poses)
    stored = load_world(folder)
    config = dataclasses.replace(stored.config.networks, unit=CubeUnitConfig(frames=2))
    torch.manual_seed(0)
    networks = Networks(config, stored.config.source)
    stir(networks)
    if networks.walkable_map is not None:
        networks.walkable_map.visited[8:-8, 8:-8] = 1
    save_world(folder, dataclasses.replace(stored.config, networks=config), networks, stored.starts, "#")
    return load(folder, "cpu", torch.float32)


def opened(world: World, seed: int = 3) -> Session:
    return world.engine(2, rewind_frames=16).open(seed, 0)


def units_of(session: Session) -> int:
    return int(session.engine._states.copy(session.number).generator.units)  # type: ignore[attr-defined]


def test_a_held_control_is_served_from_one_unit(world: World) -> None:
    assert world.unit_frames == 2
    session = opened(world)
    before = units_of(session)
    for _ in range(6):
        session.step(AHEAD)
    # Of three given frames the last unit is open; three units were imagined, and the newest is not told yet.
    assert units_of(session) == before + 3
    assert session.index == 8


def test_a_chunk_is_imagined_under_its_own_controls(world: World) -> None:
    held, known = opened(world), opened(world)
    steps = known.step_chunk([AHEAD, LEFT, LEFT, AHEAD])
    assert [step.index for step in steps] == [3, 4, 5, 6]
    alone = [held.step(AHEAD)]
    assert units_of(known) > units_of(opened(world))
    # The second frame of the unit knew that the camera would turn, so it is served and not begun anew.
    frames = [held.step(control) for control in (LEFT, LEFT, AHEAD)]
    assert not np.array_equal(alone[0].frame, steps[0].frame)
    assert not np.array_equal(frames[0].frame, steps[1].frame)


def test_a_chunk_of_one_control_is_that_control_held(world: World) -> None:
    held, known = opened(world), opened(world)
    assert_same(known.step_chunk([AHEAD] * 4), [held.step(AHEAD) for _ in range(4)])


def test_a_changed_control_takes_effect_at_once(world: World) -> None:
    first, second = opened(world), opened(world)
    assert_same([first.step(AHEAD)], [second.step(AHEAD)])
    on, turned = first.step(AHEAD), second.step(LEFT)
    assert not np.array_equal(on.frame, turned.frame)
    assert (on.index, turned.index) == (4, 4)


def test_rewind_snapshot_and_fork_work_within_a_unit(world: World) -> None:
    engine = world.engine(4, rewind_frames=16)
    session = engine.open(3, 0)
    controls = [AHEAD, AHEAD, AHEAD, LEFT, LEFT, AHEAD, AHEAD]
    steps = [session.step(control) for control in controls]
    for back in (1, 2, 5):
        session.rewind(back)
        assert_same([session.step(control) for control in controls[-back:]], steps[-back:])
    session.rewind(4)  # in the middle of a unit
    twin, (fork,) = engine.restore(session.snapshot()), session.fork()
    for other in (twin, fork, session):
        assert_same([other.step(control) for control in controls[-4:]], steps[-4:])


def test_who_shares_the_batch_changes_nothing(world: World) -> None:
    engine = world.engine(3)
    together = [engine.open(seed, seed % 2) for seed in (3, 4, 5)]
    alone = world.engine(1).open(4, 0)
    rows = ([AHEAD, AHEAD, LEFT], [AHEAD, LEFT, LEFT], [LEFT, LEFT, AHEAD], [LEFT] * 3, [AHEAD] * 3)
    for row in rows:
        told = engine.step(dict(zip(together, row, strict=True)))
        assert_same([told[together[1]]], [alone.step(row[1])])


def test_given_frames_and_poses_are_taken_within_a_unit(world: World) -> None:
    session = opened(world)
    session.step(AHEAD)
    pose = None if session.pose is None else session.pose.copy()
    for _ in range(3):
        assert session.observe(session.frame.copy(), pose).latent is None
    if pose is not None:
        there = camera.from_planar(2.2, 1.9, 1.3, 0.4)
        np.testing.assert_array_equal(session.step(Control(pose=there)).pose, there)
    assert session.step(AHEAD).index == session.index
    session.rewind(5 if pose is not None else 4)
    assert session.index == 3


def test_frames_lie_in_units_for_the_generator() -> None:
    tokens = torch.arange(2 * 4 * 3 * 1).view(2, 4, 3, 1)
    grouped = group_by_unit(tokens, 2)
    assert grouped.shape == (2, 2, 6, 1)
    assert torch.equal(grouped[0, 1, :, 0], tokens[0, 2:].flatten())
    assert group_by_unit(torch.zeros(2, 4, 5), 2).shape == (2, 2, 10)


def test_a_cube_lies_frame_after_frame_and_sees_those_before_it() -> None:
    cube = CubeUnit(frames=2, grid=(2, 4), splits=(1, 1, 2))
    assert (cube.tokens, cube.frames) == (16, 2)
    first = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 3]]
    np.testing.assert_array_equal(cube.positions()[[0, 1, 4, 8, 15]], first)
    assert cube.order() == ((0, 1, 4, 5, 8, 9, 12, 13), (2, 3, 6, 7, 10, 11, 14, 15))
    mask = cube.mask()
    assert mask[0, [1, 4, 5, 8, 13]].all()
    assert not mask[0, [2, 3, 6, 10]].any()
    assert mask[2].all()
    assert CubeUnit(frames=2, grid=(2, 4)).mask().all()
