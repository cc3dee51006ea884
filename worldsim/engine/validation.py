"""Validation of the controls and frames that are given to an engine, and their batches."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from worldsim import camera
from worldsim.controls import Control, ControlLike
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.errors import ControlError, EngineError
from worldsim.sampling.control_batch import ControlBatch

__all__ = ["batch_controls", "check_frame", "read_control", "read_plans"]


def read_control(world: LoadedWorld, given: ControlLike) -> Control:
    """Read ``given`` as a control; see ``ControlSpace.control``.

    Raises:
        ControlError, CameraError: the world does not take it.
    """
    control = world.spec.control_space.control(given)
    if control.pose is not None:
        if not world.networks.has_poses:
            rule = "a pose needs a world that was learnt with poses"
            raise ControlError(rule, world.name, "leave Control.pose out")
        camera.check_pose(control.pose)
    return control


H = TypeVar("H", bound=Hashable)


def read_plans(
    world: LoadedWorld, now: Mapping[H, Control], plans: Mapping[H, Sequence[ControlLike]] | None
) -> dict[H, list[Control]]:
    """The controls of a unit for everyone in ``now``: its own, those of its plan, and the last one held.

    Empty where units have one frame or nobody plans: then every control answers for itself.
    """
    frames = world.networks.unit.frames
    if frames == 1 or not plans:
        return {}
    read: dict[H, list[Control]] = {}
    for who, control in now.items():
        later = [read_control(world, given) for given in list(plans.get(who, ()))[: frames - 1]]
        known = [control, *later]
        held = replace(known[-1], pose=None)
        read[who] = known + [held] * (frames - len(known))
    return read


def check_frame(world: LoadedWorld, frame: np.ndarray, pose: np.ndarray | None) -> None:
    """Raises EngineError for a frame of another size or type, or one without the pose that it needs."""
    height, width = world.spec.size
    if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
        rule = f"a frame must be uint8 [{height}, {width}, 3]"
        raise EngineError(rule, f"{frame.dtype} {list(frame.shape)}", "resize it")
    if pose is None and world.networks.has_poses:
        rule = "a frame of a world learnt with poses needs its pose"
        raise EngineError(rule, None, "give observe(frame, pose)")


def batch_controls(
    world: LoadedWorld, controls: Sequence[Control], plans: Sequence[Sequence[Control]] = ()
) -> ControlBatch:
    """Controls of a batch, a row each.

    Args:
        world: takes them.
        controls: of the next frame.
        plans: of as many frames as a unit has, the next one first; empty: controls are held.
    """
    now = _control_batch(world, controls)
    if not plans:
        return now
    columns = [_control_batch(world, column) for column in zip(*plans, strict=True)]
    vector, poses, given = (
        np.stack([np.asarray(getattr(column, name)) for column in columns], 1)
        for name in ("vector", "poses", "pose_mask")
    )
    return replace(now, ahead=ControlBatch(vector, poses, given))


def _control_batch(world: LoadedWorld, controls: Sequence[Control]) -> ControlBatch:
    space = world.spec.control_space
    vector = np.stack([space.vector(control) for control in controls]).astype(np.float32)
    poses = np.tile(np.eye(4), (len(controls), 1, 1))
    for i, control in enumerate(controls):
        if control.pose is not None:
            poses[i] = control.pose
    given = np.array([control.pose is not None for control in controls])
    return ControlBatch(vector, poses, given)
