from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim import config
from worldsim.controls import MAX_ACTION, ActionBox, Control, ControlLike, ControlSpace
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import ConfigError, ControlError

DOOM = ControlSpace(
    keys=DOOM_KEYS,
    yaw=True,
    pose=True,
    discrete_actions=((), ("forward",), ("forward", "turn_left"), ("turn_right",)),
)
PLAIN = ControlSpace(
    keys=("gas", "brake"), yaw=False, pose=False, discrete_actions=((), ("gas",), ("brake",))
)

keys = st.frozensets(st.sampled_from(DOOM_KEYS))
looks = st.floats(-3, 3, width=32)


@pytest.mark.slow
@given(keys, looks)
def test_a_control_survives_its_vector(down: frozenset[str], look: float) -> None:
    control = Control(down, yaw=look)
    vector = DOOM.vector(control)
    assert vector.shape == (DOOM.size,) == (7,)
    assert vector.dtype == np.float32
    assert DOOM.from_vector(vector) == control
    assert DOOM.keys_of(vector) == DOOM.keys_of(vector[:-1]) == down


@given(keys)
def test_keys_survive_multi_binary(down: frozenset[str]) -> None:
    hot = DOOM.multi_hot(Control(down))
    assert hot.shape == (6,)
    assert hot.dtype == np.float32
    for dtype in (bool, np.int8, np.float32):
        assert DOOM.from_multi_binary(hot.astype(dtype)) == Control(down)


@pytest.mark.parametrize("index", range(len(DOOM.discrete_actions)))
def test_each_discrete_action_holds_its_combination(index: int) -> None:
    assert DOOM.from_discrete(index).keys == frozenset(DOOM.discrete_actions[index])
    assert DOOM.from_discrete(np.int64(index)) == DOOM.from_discrete(index)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 4])
def test_a_discrete_action_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ControlError, match=r"must be in 0\.\.3"):
        DOOM.from_discrete(index)


@pytest.mark.parametrize("given_keys", [["forward"], ("forward",) * 2, {"forward": 1}, iter(["forward"])])
def test_any_iterable_of_names_is_taken(given_keys: object) -> None:
    assert Control(given_keys) == Control({"forward"})  # type: ignore[arg-type]


def test_controls_compare_and_hash_by_value() -> None:
    pose = np.eye(4)
    a = Control({"forward"}, pose=pose, yaw=0.1)
    b = Control(["forward"], pose=pose.tolist(), yaw=0.1)  # type: ignore[arg-type]
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b, Control(), Control({"backward"}), Control(yaw=0.1), Control(prompt="rain")}) == 5
    assert Control() != "forward"


def test_a_pose_is_copied_and_cannot_be_changed() -> None:
    given_pose = np.eye(4, dtype=np.float32)
    control = Control(pose=given_pose)
    given_pose[0, 3] = 5
    assert control.pose is not None
    assert control.pose.dtype == np.float64
    assert control.pose[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        control.pose[0, 3] = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": "forward"}, r"collection of names; got 'forward'; write keys=\{'forward'\}"),
        ({"keys": 3}, "collection of names"),
        ({"keys": [1, 0]}, "keys must be names"),
        ({"keys": [["forward"]]}, "collection of names"),
        ({"yaw": math.nan}, "yaw must be finite"),
        ({"yaw": math.inf}, "yaw must be finite"),
        ({"yaw": "left"}, "angle in radians"),
        ({"pose": np.eye(3)}, r"shape \(4, 4\); got \(3, 3\)"),
        ({"pose": np.full((4, 4), np.nan)}, "pose must be finite"),
        ({"pose": "here"}, "4x4 matrix of numbers"),
        ({"prompt": 3}, "a text or None"),
        ({"action": 0.5}, r"list of 1 to 256 numbers; got 0.5; write action=\["),
        ({"action": ()}, "list of 1 to 256 numbers"),
        ({"action": "left"}, "list of 1 to 256 numbers"),
        ({"action": [[0.5]]}, "list of 1 to 256 numbers"),
        ({"action": np.zeros(257)}, r"list of 1 to 256 numbers; got 'ndarray \[257\]'"),
        ({"action": [0.5, math.nan]}, "action must be finite"),
        ({"action": [1e39]}, "action must be finite"),
    ],
)
def test_what_is_no_control_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        Control(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("encode", [DOOM.validate, DOOM.multi_hot, DOOM.vector])
def test_an_unknown_key_names_the_nearest(encode: object) -> None:
    with pytest.raises(ControlError, match="got 'forwrad'; did you mean 'forward'"):
        encode(Control({"forwrad"}))  # type: ignore[operator]


@pytest.mark.parametrize(
    "control",
    [Control(yaw=0.1), Control(pose=np.eye(4)), Control(prompt="rain"), Control(action=[0.5])],
)
def test_what_the_space_does_not_take_is_refused(control: Control) -> None:
    with pytest.raises(ControlError, match="this world takes no"):
        PLAIN.validate(control)


def test_what_the_space_takes_passes() -> None:
    DOOM.validate(Control(DOOM_KEYS, pose=np.eye(4), yaw=-0.2))
    PLAIN.validate(Control({"gas", "brake"}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DOOM.from_multi_binary(np.zeros(7)), r"shape \(6,\); got \(7,\)"),
        (lambda: DOOM.from_multi_binary(np.full(6, 2)), "must be 0 or 1"),
        (lambda: DOOM.from_multi_binary(np.full(6, np.nan)), "must be 0 or 1"),
        (lambda: DOOM.keys_of(np.zeros((1, 7))), r"shape \(7,\)"),
        (lambda: DOOM.from_vector(np.zeros(6)), r"shape \(7,\)"),
        (lambda: DOOM.from_vector(np.full(7, np.nan)), "must be finite"),
    ],
)
def test_arrays_that_are_no_controls_are_refused(call: object, message: str) -> None:
    with pytest.raises(ControlError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("space_keys", "discrete_actions", "message"),
    [
        (("gas", "gas"), ((),), "each key once"),
        (("gas",), (), "first combination"),
        (("gas",), (("gas",),), "first combination"),
        (("gas",), ((), ("gaz",)), "did you mean 'gas'"),
    ],
)
def test_a_space_that_cannot_be_is_refused(
    space_keys: tuple[str, ...], discrete_actions: tuple[tuple[str, ...], ...], message: str
) -> None:
    with pytest.raises(ControlError, match=message):
        ControlSpace(keys=space_keys, yaw=False, pose=False, discrete_actions=discrete_actions)


@pytest.mark.parametrize("space", [DOOM, PLAIN])
def test_a_space_can_be_saved(space: ControlSpace) -> None:
    assert config.from_dict(ControlSpace, config.to_dict(space)) == space


POSE = np.eye(4)


@pytest.mark.parametrize(
    ("given_control", "control"),
    [
        (None, Control()),
        ("forward", Control({"forward"})),
        ({"forward"}, Control({"forward"})),
        (["forward", "turn_left"], Control({"forward", "turn_left"})),
        (("forward",), Control({"forward"})),
        ((), Control()),
        ([], Control()),
        ({}, Control()),
        ({"forward": True, "backward": False}, Control({"forward"})),
        ({"forward": 1, "backward": 0}, Control({"forward"})),
        (np.array(["forward"]), Control({"forward"})),
        (2, Control({"forward", "turn_left"})),
        (np.int64(1), Control({"forward"})),
        (np.array(1), Control({"forward"})),
        (POSE, Control(pose=POSE)),
        (POSE.tolist(), Control(pose=POSE)),
        (np.array([1, 0, 0, 0, 0, 0]), Control({"forward"})),
        ([1, 0, 0, 0, 0, 0], Control({"forward"})),
        ([True, False, False, False, False, False], Control({"forward"})),
        (np.array([1, 0, 0, 0, 0, 0, 0.25]), Control({"forward"}, yaw=0.25)),
        (Control({"forward"}, yaw=0.1), Control({"forward"}, yaw=0.1)),
    ],
)
def test_what_a_person_would_pass_is_a_control(given_control: ControlLike, control: Control) -> None:
    assert DOOM.control(given_control) == control


@pytest.mark.parametrize(
    ("given_control", "message"),
    [
        ("forwrad", "did you mean 'forward'"),
        ({"forwrad"}, "did you mean 'forward'"),
        (True, "number of an action"),
        (0.5, "number of an action"),
        (object(), r"write Control\(\{\"forward\"\}\)"),
        (9, r"must be in 0\.\.3"),
        (np.zeros((3, 3)), r"pose \(4, 4\), keys \(6,\) or a vector \(7,\)"),
        (np.zeros(5), r"pose \(4, 4\)"),
        ([1, 2], r"pose \(4, 4\)"),
        ([["forward"]], "collection of names"),
        ({"forward": "up", 3: True}, "keys must be names"),
    ],
)
def test_what_is_no_control_is_one_error_with_its_remedy(given_control: object, message: str) -> None:
    with pytest.raises(ControlError, match=message):
        DOOM.control(given_control)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rows",
    [
        [Control(), Control({"forward"})],
        [None, "forward"],
        ((), ("forward",)),
        [set(), {"forward"}],
        [0, 1],
        [[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]],
        np.array([[0] * 7, [1, *[0] * 6]]),
        [[0] * 7, [1, *[0] * 6]],
    ],
)
def test_rows_of_controls_become_vectors(rows: object) -> None:
    vectors = DOOM.rows(rows, 2)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[0] * 7, [1, *[0] * 6]]


@pytest.mark.parametrize("rows", ["forward", Control(), {"forward": True}, [Control()], np.zeros((3, 7)), 3])
def test_rows_that_do_not_fit_are_refused(rows: object) -> None:
    with pytest.raises(ControlError, match="controls"):
        DOOM.rows(rows, 2)


def test_no_rows_hold_no_key() -> None:
    assert not DOOM.rows(None, 3).any()


def prompted(prompts: tuple[str, ...] = ("rain", "snow")) -> ControlSpace:
    return ControlSpace(keys=("gas",), yaw=True, pose=False, discrete_actions=((),), prompts=prompts)


def test_a_prompt_is_the_last_number_of_the_vector() -> None:
    space, control = prompted(), Control({"gas"}, yaw=0.5, prompt="snow")
    assert space.size == 3
    assert space.channels == {"keys": slice(0, 1), "yaw": slice(1, 2), "prompt": slice(2, 3)}
    assert space.vector(control).tolist() == [1, 0.5, 2]
    assert space.vector(Control()).tolist() == [0, 0, 0]
    assert space.from_vector(space.vector(control)) == control
    assert space.control([1, 0.5]) == Control({"gas"}, yaw=0.5)
    assert space.control(np.array([1])) == Control({"gas"})


def test_an_unknown_prompt_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ControlError, match="got 'sun'; choose from 'rain', 'snow'"):
        prompted().vector(Control(prompt="sun"))
    for number in (3, -1, 0.5):
        with pytest.raises(ControlError, match=r"number must be in 0\.\.2"):
            prompted().rows(np.array([[0, 0, number]]), 1)


@pytest.mark.parametrize("prompts", [("rain", "rain"), ("",), ("x" * 257,)])
def test_prompts_are_different_texts(prompts: tuple[str, ...]) -> None:
    with pytest.raises(ControlError, match="prompt"):
        prompted(prompts)


def test_spaces_of_older_files_take_no_prompts() -> None:
    row = {**config.to_dict(PLAIN), "prompt": False}
    assert config.from_dict(ControlSpace, row) == PLAIN
    with pytest.raises(ConfigError, match="no such key"):
        config.from_dict(ControlSpace, {**row, "prompt": True})


BOX = ActionBox(low=(-1.0, 0.0), high=(0.1, 2.0))
STEERED = ControlSpace(
    keys=("gas",), yaw=True, pose=False, discrete_actions=((),), prompts=("rain",), action=BOX
)


@given(st.none() | st.tuples(st.floats(-1, 0.1), st.floats(0, 2)), st.sampled_from([None, "rain"]))
def test_an_action_survives_its_columns(action: tuple[float, float] | None, prompt: str | None) -> None:
    control = Control({"gas"}, yaw=0.5, prompt=prompt, action=action)
    vector = STEERED.vector(control)
    assert vector.shape == (STEERED.size,) == (6,)
    assert STEERED.from_vector(vector) == control
    assert STEERED.control(vector) == control
    assert STEERED.rows([control], 1).tolist() == STEERED.rows(vector[None], 1).tolist() == [vector.tolist()]
    known = vector[STEERED.channels["action"]]
    assert known.tolist() == [0, 0, 0] if action is None else known[0] == 1


def test_actions_compare_as_float32() -> None:
    assert Control(action=[0.1]) == Control(action=np.array([0.1], np.float32)) != Control(action=[0.2])
    assert len({Control(action=[0.1]), Control(action=(np.float32(0.1),)), Control()}) == 2
    assert ActionBox(low=(0.1,), high=(0.3,)).low == Control(action=[0.1]).action


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([1, 0.5, 1], r"number 0 of an action must be in \[-1, 0.1\]; got 0.5; clip it"),
        ([1, 0, 3], "number 1 of an action"),
        ([2, 0, 0], "must be 0 or 1, known"),
    ],
)
def test_columns_that_are_no_action_are_refused(columns: list[float], message: str) -> None:
    vector = np.array([0, 0, 0, *columns], np.float32)
    for read in (STEERED.from_vector, lambda row: STEERED.rows(row[None], 1)):
        with pytest.raises(ControlError, match=message):
            read(vector)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((0.0,), (1.0, 1.0), "as many lower as upper bounds"),
        ((0.0, 1.0), (1.0, 1.0), "below the upper ones"),
        ((-math.inf,), (1.0,), "finite"),
        ((), (), "1 to 256 numbers"),
        ((0.0,) * (MAX_ACTION + 1), (1.0,) * (MAX_ACTION + 1), "1 to 256 numbers"),
    ],
)
def test_bounds_that_are_no_box_are_refused(
    low: tuple[float, ...], high: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ControlError, match=message):
        ActionBox(low=low, high=high)


def test_a_space_with_actions_can_be_saved() -> None:
    assert config.from_dict(ControlSpace, config.to_dict(STEERED)) == STEERED
    assert STEERED.control([1, 0.5]) == Control({"gas"}, yaw=0.5)
