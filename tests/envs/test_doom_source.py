"""The Doom sources, and the two gates that data must pass before anything is learnt from it."""

from __future__ import annotations

import gc
import hashlib
import itertools
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from worldsim.camera import check_pose, planar, rays, relative
from worldsim.controls import Control
from worldsim.envs.sources import Observation, Source, make_source
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import DependencyError, SourceError

pytest.importorskip("vizdoom")


@pytest.fixture(scope="module")
def maze() -> Iterator[Source]:
    source = make_source("doom-maze", depth=True)
    yield source
    source.close()


def walk(seed: int, frames: int) -> list[Control]:
    """Keys and yaws that are held for a while, so that the camera goes somewhere."""
    rng = np.random.default_rng(seed)
    controls: list[Control] = []
    while len(controls) < frames:
        keys = [key for key in DOOM_KEYS if rng.random() < 0.3] + ["forward"]
        yaw = float(rng.normal(0, 0.05)) if rng.random() < 0.3 else 0.0
        controls += [Control(keys, yaw=yaw)] * int(rng.integers(4, 12))
    return controls[:frames]


def play(source: Source, seed: int, controls: list[Control]) -> list[Observation]:
    seen = [source.reset(seed)]
    for control in controls:
        if seen[-1].terminated or seen[-1].truncated:
            break
        seen.append(source.step(control))
    return seen


def digest(seen: list[Observation]) -> str:
    state = hashlib.sha256()
    for one in seen:
        assert one.pose is not None
        state.update(one.frame.tobytes())
        state.update(one.pose.tobytes())
        state.update(np.float64(one.reward).tobytes() + bytes([one.terminated, one.truncated]))
    return state.hexdigest()


def test_gate_replay_gives_the_same_frames_and_poses(maze: Source) -> None:
    controls = walk(1, 150)
    first = digest(play(maze, 11, controls))
    play(maze, 12, controls[:20])  # another episode in between changes nothing
    assert digest(play(maze, 11, controls)) == first
    fresh = make_source("doom-maze")
    assert digest(play(fresh, 11, controls)) == first
    assert digest(play(fresh, 13, controls)) != first
    fresh.close()


def test_gate_warping_with_depth_and_poses_beats_copying(maze: Source) -> None:
    warped, copied = [], []
    for seed in range(4):
        seen = play(maze, 100 + seed, walk(seed, 100))
        for now, later in zip(seen[:-4:3], seen[4::3], strict=False):
            picture, is_seen = warp(now, later, maze)
            if is_seen.mean() > 0.4:
                warped.append(errors(picture, later.frame)[is_seen])
                copied.append(errors(now.frame, later.frame)[is_seen])
    assert len(warped) > 50
    gain = 10 * math.log10(np.concatenate(copied).mean() / np.concatenate(warped).mean())
    assert gain >= 2, f"the warp is {gain:.1f} dB better than the copy"


def warp(now: Observation, later: Observation, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """The later frame made of the pixels of the one now, and where those were in view."""
    K = source.spec.intrinsics
    assert K is not None
    assert later.depth is not None
    assert now.pose is not None
    assert later.pose is not None
    h, w = later.depth.shape
    points = later.depth[..., None] * rays(K, h, w)
    motion = relative(now.pose, later.pose)
    x, y, z = np.moveaxis(points @ motion[:3, :3].T + motion[:3, 3], -1, 0)
    is_ahead = z > 0.05
    z = np.where(is_ahead, z, 1)
    u, v = np.floor(x / z * K.fx + K.cx), np.floor(y / z * K.fy + K.cy)
    is_seen = is_ahead & (u >= 0) & (u < w) & (v >= 0) & (v < h)
    picture = now.frame[v.clip(0, h - 1).astype(int), u.clip(0, w - 1).astype(int)]
    return picture, is_seen


def errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a.astype(np.float64) - b) ** 2).mean(-1)


def yaw_after(source: Source, control: Control, frames: int = 1) -> float:
    """The turn to the right in radians."""
    seen = play(source, 5, [control] * frames)
    before, after = (planar(one.pose)[3] for one in (seen[0], seen[-1]) if one.pose is not None)
    return math.remainder(before - after, 2 * math.pi)


@pytest.mark.parametrize("yaw", [0.2, -0.35, 0.01])
def test_look_is_the_turn_of_one_frame_to_the_right(maze: Source, yaw: float) -> None:
    assert yaw_after(maze, Control(yaw=yaw)) == pytest.approx(yaw, abs=3e-4)


def test_look_adds_to_the_turning_keys(maze: Source) -> None:
    right = yaw_after(maze, Control({"turn_right"}))
    assert right > 0.02
    assert yaw_after(maze, Control({"turn_left"})) == pytest.approx(-right, abs=3e-4)
    assert yaw_after(maze, Control({"turn_right"}, yaw=0.1)) == pytest.approx(right + 0.1, abs=3e-4)


@pytest.mark.parametrize(
    ("key", "axis", "sign"),
    [("forward", 2, 1), ("backward", 2, -1), ("strafe_right", 0, 1), ("strafe_left", 0, -1)],
)
def test_keys_move_the_camera_their_way(maze: Source, key: str, axis: int, sign: int) -> None:
    seen = play(maze, 5, [Control({key})] * 3)
    assert seen[0].pose is not None
    assert seen[-1].pose is not None
    motion = relative(seen[0].pose, seen[-1].pose)[:3, 3] * sign
    assert 0.1 < motion[axis] < 2  # metres in a sixth of a second
    assert abs(motion[2 - axis]) < 0.05


def test_frames_poses_and_depth_are_as_stated(maze: Source) -> None:
    seen = maze.reset(1)
    assert maze.spec.size == (120, 160)
    assert maze.spec.fps == 17.5
    assert seen.frame.shape == (120, 160, 3)
    assert seen.frame.dtype == np.uint8
    assert seen.pose is not None
    check_pose(seen.pose)
    assert seen.pose[2, 3] == pytest.approx(41 / 32, abs=0.01)  # the eyes of Doom's marine
    assert seen.depth is not None
    assert 0 < seen.depth.min() < seen.depth.max() < 60
    walls = maze.walls()
    assert walls is not None
    assert walls.shape[1] == 4
    assert np.ptp(walls[:, 0::2]) == pytest.approx(30)


def test_depth_measures_the_wall_ahead(maze: Source) -> None:
    """Walking towards a wall, the depth ahead falls by as much as the camera moves."""
    seen = play(maze, 7, [Control({"forward"})] * 12)
    steps = []
    for a, b in itertools.pairwise(seen[4:]):
        assert a.depth is not None
        assert b.depth is not None
        assert a.pose is not None
        assert b.pose is not None
        moved = relative(a.pose, b.pose)[2, 3]
        if moved > 0.2:
            steps.append((moved, float(a.depth[56:64, 78:82].mean() - b.depth[56:64, 78:82].mean())))
    moved, nearer = np.sum(steps, axis=0)
    assert nearer == pytest.approx(moved, rel=0.15, abs=0.25)


@pytest.mark.slow
def test_frames_can_be_smaller() -> None:
    small, full = make_source("doom-maze", (60, 80)), make_source("doom-maze")
    a, b = small.reset(3).frame, full.reset(3).frame
    assert a.shape == (60, 80, 3)
    np.testing.assert_allclose(a, b.reshape(60, 2, 80, 2, 3).mean((1, 3)), atol=0.51)
    assert small.spec.intrinsics == full.spec.at_size((60, 80)).intrinsics
    small.close()
    full.close()


def test_an_episode_is_truncated_after_2100_tics(maze: Source) -> None:
    seen = play(maze, 2, [Control({"turn_left"})] * 2000)
    assert len(seen) == 1051
    assert seen[-1].truncated
    assert not seen[-1].terminated
    with pytest.raises(SourceError, match="reset"):
        maze.step(Control())


def test_take_cover_ends_with_death() -> None:
    source = make_source("take-cover")
    assert source.spec.control_space.keys == ("strafe_left", "strafe_right")
    seen = play(source, 1, [Control()] * 1050)
    assert seen[-1].terminated
    assert [one.reward for one in seen[1:6]] == [2.0] * 5  # one for each tic survived
    np.testing.assert_array_equal(seen[-1].frame, seen[-2].frame)
    source.close()


@pytest.mark.parametrize(("name", "keys", "kind"), [
    ("defend-the-center", {"turn_left", "attack"}, "monster"),
    ("health-gathering", {"turn_left", "forward"}, "medikit"),
])  # fmt: skip
def test_other_scenarios_turn_the_camera_and_show_their_objects(name: str, keys: set[str], kind: str) -> None:
    source = make_source(name, (60, 80), labels=True)
    try:
        assert keys <= set(source.spec.control_space.keys)
        seen = play(source, 3, [Control({"turn_left"})] * 40)
        yaws = [planar(one.pose)[3] for one in seen[-2:] if one.pose is not None]
        assert yaws[0] != yaws[1]
        assert any(one.labels is not None and one.labels[kind].any() for one in seen)
    finally:
        source.close()


def test_attacks_kill_what_is_in_front() -> None:
    source = make_source("defend-the-center", (60, 80))
    try:
        seen = play(source, 1, [Control({"turn_left", "attack"})] * 400)
        assert sum(one.reward >= 1 for one in seen) >= 1
    finally:
        source.close()


@pytest.mark.slow
def test_nothing_is_left_behind(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, here = tmp_path / "scratch", tmp_path / "here"
    scratch.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    closed, dropped = make_source("doom-maze"), make_source("doom-maze")
    assert os.getcwd() == str(here)
    closed.reset(0)
    closed.close()
    closed.close()
    del dropped
    gc.collect()
    assert not list(here.iterdir())
    assert not list(scratch.iterdir())
    with pytest.raises(SourceError, match="open"):
        closed.reset(0)


def test_what_a_source_cannot_do_is_an_error(maze: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="divide"):
        make_source("doom-maze", (50, 80))
    with pytest.raises(SourceError, match="seed"):
        maze.reset(-1)
    seen = maze.reset(0)
    with pytest.raises(SourceError, match="pose"):
        maze.step(Control(pose=seen.pose))
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(DependencyError, match=r"pip install .*\[doom\]"):
        make_source("doom-maze")


@pytest.mark.slow
def test_labels_tell_where_monsters_and_fireballs_are() -> None:
    large, reduced = (make_source("take-cover", size, labels=True) for size in (None, (60, 80)))
    try:
        controls = [Control(["strafe_left"])] * 45
        rows = [play(source, 5, controls) for source in (large, reduced)]
        for whole, half in zip(*rows, strict=True):
            assert whole.labels is not None
            assert half.labels is not None
            assert whole.labels["monster"].shape == (120, 160)
            blocks = whole.labels["monster"].reshape(60, 2, 80, 2).mean((1, 3))
            assert np.array_equal(half.labels["monster"], blocks >= 0.5)
        assert rows[0][0].labels is not None
        assert not rows[0][0].labels["fireball"].any(), "none has been thrown yet"
        seen = [one for one in rows[0] if one.labels is not None and one.labels["fireball"].any()]
        assert seen
        fire = np.concatenate([one.frame[one.labels["fireball"]] for one in seen if one.labels])
        assert fire[:, 0].mean() > fire[:, 2].mean() + 50, "fire is red, not blue"
    finally:
        large.close()
        reduced.close()


def test_labels_come_where_they_are_asked_for_and_there_are_kinds(maze: Source) -> None:
    assert maze.reset(1).labels is None
    source = make_source("doom-maze", labels=True)
    assert source.reset(1).labels is None
    source.close()
