from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

from tests.envs.fake_world import ACTIONS, control_space
from worldsim import camera
from worldsim.controls import Control
from worldsim.envs.actions import KINDS, MAX_YAW, make_actions
from worldsim.envs.pose_space import PoseSpace
from worldsim.errors import CameraError, ConfigError, ControlError

POSE = camera.from_planar(1.0, -2.0, 0.5, 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampled_action_is_a_control_and_every_combination_can_be_written(kind: str) -> None:
    actions = make_actions(kind, control_space())
    actions.space.seed(0)
    for _ in range(20):
        sample = actions.space.sample()
        assert sample in actions.space
        actions.controls.validate(actions.decode(sample))
    for i, combo in enumerate(ACTIONS):
        assert actions.encode(i) in actions.space
        assert actions.decode(actions.encode(i)) == Control(combo)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_samples_are_batches_of_actions(kind: str) -> None:
    actions = make_actions(kind, control_space())
    batch = batch_space(actions.space, 3)
    batch.seed(0)
    sample = batch.sample()
    assert sample in batch
    rows = list(iterate(batch, sample))
    assert len(rows) == 3
    for row in rows:
        actions.decode(row)


def test_what_the_kinds_mean() -> None:
    controls = control_space()
    assert make_actions("discrete", controls).decode(np.int64(4)) == Control({"forward", "turn_left"})
    bits = np.array([1, 0, 0, 0, 0, 1], np.int8)
    assert make_actions("multi_binary", controls).decode(bits) == Control({"forward", "turn_right"})
    box = make_actions("box", controls).decode(np.array([0.2, -1, 0, 0, 0, 0, -0.5]))
    assert box == Control({"forward"}, yaw=-0.5 * MAX_YAW)
    both = make_actions("dict", controls).decode({"keys": bits, "pose": POSE})
    assert both == Control({"forward", "turn_right"}, pose=POSE)


@pytest.mark.parametrize("action", [{}, {"pose": None}, {"pose": np.zeros((4, 4))}, {"keys": np.zeros(6)}])
def test_a_dict_action_may_leave_things_out(action: dict[str, Any]) -> None:
    assert make_actions("dict", control_space()).decode(action) == Control()


@pytest.mark.parametrize(
    ("kind", "action", "error"),
    [
        ("discrete", 5, ControlError),
        ("discrete", 1.0, ControlError),
        ("discrete", [0, 1], ControlError),
        ("multi_binary", np.zeros(5), ControlError),
        ("multi_binary", np.full(6, 2), ControlError),
        ("box", np.zeros(6), ControlError),
        ("box", np.full(7, np.nan), ControlError),
        ("dict", np.zeros(6), ControlError),
        ("dict", {"keyz": np.zeros(6)}, ControlError),
        ("dict", {"pose": np.full((4, 4), np.nan)}, CameraError),
        ("dict", {"pose": np.zeros((3, 4))}, CameraError),
        ("dict", {"pose": 2 * np.eye(4)}, CameraError),
    ],
)
def test_actions_that_mean_nothing(kind: str, action: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make_actions(kind, control_space()).decode(action)


def test_a_world_without_camera_takes_no_pose() -> None:
    actions = make_actions("dict", control_space(pose=False))
    assert isinstance(actions.space, spaces.Dict)
    assert list(actions.space.spaces) == ["keys"]
    with pytest.raises(ControlError, match="takes no explicit pose"):
        actions.decode({"pose": POSE})


def test_a_world_without_look_has_one_number_a_key() -> None:
    actions = make_actions("box", control_space(yaw=False))
    assert actions.space.shape == (6,)
    assert actions.decode(np.ones(6)).yaw == 0


def test_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="multi_binary"):
        make_actions("keys", control_space())


def test_keyboard_codes() -> None:
    actions = make_actions("discrete", control_space()).keys_to_action()
    assert actions[(ord("w"),)] == 1
    assert set(actions.values()) == set(range(1, len(ACTIONS)))
    assert all(codes == tuple(sorted(codes)) for codes in actions)


def test_poses_and_the_absence_of_one() -> None:
    space = PoseSpace(seed=0)
    samples = [space.sample() for _ in range(30)]
    assert all(sample in space for sample in samples)
    assert {sample.any() for sample in samples} == {np.True_, np.False_}
    assert POSE in space
    assert np.eye(4).astype(np.float32) in space
    assert np.zeros((4, 4)) in space
    for wrong in (
        2 * np.eye(4),
        np.full((4, 4), np.nan),
        np.zeros((3, 4)),
        np.eye(4) * [1, 1, -1, 1],
        "pose",
    ):
        assert wrong not in space
    assert create_empty_array(space, 2) in batch_space(space, 2)
    assert batch_space(space, 2).shape == (2, 4, 4)
