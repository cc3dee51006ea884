"""What a person would naturally pass as a control or as given frames works, through the engine itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.walks import given
from worldsim.context import Context
from worldsim.controls import Control, ControlLike
from worldsim.engine.world import World
from worldsim.errors import ControlError, DataError, EngineError, WorldsimError


@pytest.mark.parametrize(
    "held", ["forward", {"forward"}, ["forward"], ("forward",), {"forward": True}, [1, 0, 0, 0, 0, 0], 1]
)
def test_a_step_takes_what_a_person_passes(world: World, held: ControlLike) -> None:
    engine = world.engine(2)
    one, other = engine.open(3, 0), engine.open(3, 0)
    expected = one.step(Control({"forward"}))
    np.testing.assert_array_equal(other.step(held).frame, expected.frame)
    one.rewind()
    np.testing.assert_array_equal(engine.step({one: held})[one].frame, expected.frame)


def test_a_pose_alone_is_a_control(world: World) -> None:
    engine = world.engine(2)
    one, other = engine.open(3, 0), engine.open(3, 0)
    assert one.pose is not None
    expected = one.step(Control(pose=one.pose))
    step = other.step(one.pose.tolist())
    assert step.pose_given
    np.testing.assert_array_equal(step.frame, expected.frame)


@pytest.mark.parametrize(
    "held",
    ["forwrad", 3.5, True, object(), 99, np.zeros(3), b"forward", [["forward"]], {"pose": np.eye(4)}, 2j],
)
def test_what_is_no_control_is_refused_and_nothing_moves(world: World, held: object) -> None:
    session = world.engine(1).open(3, 0)
    with pytest.raises(ControlError):
        session.step(held)  # type: ignore[arg-type]
    assert session.max_rewind == 0


def test_sessions_without_controls_are_told_the_form(world: World) -> None:
    engine = world.engine(1)
    with pytest.raises(ControlError, match=r"give \{session: Control"):
        engine.step([engine.open(3, 0)])  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="open and of this engine"):
        engine.step({0: "forward"})  # type: ignore[dict-item]


FORMS = {
    "controls": lambda c: dataclasses.replace(c, controls=[Control({"forward"})] * 3),
    "names": lambda c: Context(c.frames, [{"forward"}, ["forward"], "forward"], c.poses),
    "bits": lambda c: Context(c.frames, c.controls[:, :-1], c.poses),
    "lists": lambda c: Context(list(c.frames), c.controls.tolist(), c.poses.tolist()),
    "tensors": lambda c: Context(*map(torch.from_numpy, (c.frames, c.controls, c.poses))),
    "pictures": lambda c: Context([Image.fromarray(frame) for frame in c.frames], c.controls, c.poses),
    "an array of controls": lambda c: dataclasses.replace(c, controls=np.array([Control({"forward"})] * 3)),
    "an array of names": lambda c: Context(c.frames, np.array([["forward"]] * 3), c.poses),
    "numbers of actions": lambda c: Context(c.frames, [1, 1, 1], c.poses),
}


@pytest.mark.parametrize("form", FORMS)
def test_given_frames_with_controls_as_a_person_writes_them(world: World, form: str) -> None:
    context = given(world)
    expected = world.engine(1).open(5, context).step()
    step = world.engine(1).open(5, FORMS[form](context)).step()
    np.testing.assert_array_equal(step.frame, expected.frame)
    assert step.uncertainty == expected.uncertainty


def test_one_frame_needs_no_controls(world: World) -> None:
    context = given(world, frames=1)
    assert context.poses is not None
    session = world.engine(1).open(5, Context(context.frames[0], poses=context.poses[0]))
    np.testing.assert_array_equal(session.frame, context.frames[0])


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda c: {"controls": [Control({"forward"})] * 2}, DataError),
        (lambda c: {"controls": [Control({"forwrad"})] * 3}, ControlError),
        (lambda c: {"controls": Control({"forward"})}, DataError),
        (lambda c: {"frames": c.frames.astype(float)}, DataError),
        (lambda c: {"frames": None}, DataError),
        (lambda c: {"frames": "a.png"}, DataError),
        (lambda c: {"frames": [c.frames[0], c.frames[1][:4]]}, DataError),
        (lambda c: {"controls": np.array([["forwrad"]] * 3)}, ControlError),
        (lambda c: {"controls": np.full((3, 7), np.nan)}, DataError),
        (lambda c: {"controls": c.controls[:, :3]}, EngineError),
        (lambda c: {"poses": c.poses[:, :3]}, DataError),
        (lambda c: {"poses": "here"}, DataError),
    ],
)
def test_given_frames_that_do_not_fit_are_one_error(
    world: World, spoil: object, error: type[WorldsimError]
) -> None:
    context = given(world)
    parts = {"frames": context.frames, "controls": context.controls, "poses": context.poses}
    with pytest.raises(error):
        world.engine(1).open(5, Context(**{**parts, **spoil(context)}))  # type: ignore[operator]


def test_observe_takes_names_and_lists(world: World) -> None:
    session, context = world.engine(1).open(3, 0), given(world, frames=1)
    assert context.poses is not None
    step = session.observe(context.frames[0], context.poses[0].tolist(), "forward")  # type: ignore[arg-type]
    np.testing.assert_array_equal(step.frame, context.frames[0])
    with pytest.raises(EngineError, match="uint8"):
        session.observe(context.frames[0].astype(np.float32), context.poses[0])
    picture = Image.fromarray(context.frames[0])
    step = session.observe(picture, context.poses[0])  # type: ignore[arg-type]
    np.testing.assert_array_equal(step.frame, context.frames[0])


@pytest.mark.parametrize("start", ["doom", 1.5, np.zeros((2, 60, 80, 3), np.uint8), [0], object()])
def test_a_start_that_is_none_is_one_error(world: World, start: object) -> None:
    engine = world.engine(1)
    with pytest.raises(EngineError, match="a number or a Context"):
        engine.open(0, start)  # type: ignore[arg-type]
    assert engine.free == 1


def test_a_chunk_takes_what_a_person_passes(world: World) -> None:
    engine = world.engine(2)
    one, other = engine.open(3, 0), engine.open(3, 0)
    expected = [one.step(control) for control in ({"forward"}, 1)]
    for chunk in (["forward", 1], np.array([[1, 0, 0, 0, 0, 0]] * 2), ({"forward"}, {"forward": True})):
        told = other.step_chunk(chunk)  # type: ignore[arg-type]
        for step, true in zip(told, expected, strict=True):
            np.testing.assert_array_equal(step.frame, true.frame)
        other.rewind(2)


@pytest.mark.parametrize("chunk", ["forward", {"forward"}, Control({"forward"}), {"forward": True}, 3, None])
def test_what_is_no_chunk_is_one_error(world: World, chunk: object) -> None:
    session = world.engine(1).open(3, 0)
    with pytest.raises(ControlError, match="a list of controls"):
        session.step_chunk(chunk)  # type: ignore[arg-type]
    with pytest.raises(ControlError, match="each session"):
        session.engine.step_chunk([session])  # type: ignore[arg-type]
    assert session.max_rewind == 0
