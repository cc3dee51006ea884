"""Camera motion of a frame: predicted from keys and projected onto the walkable map, or a given pose.

Shapes: B worlds, M control vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldsim.kernels.library import kernels_enabled
from worldsim.sampling import se3

if TYPE_CHECKING:
    from worldsim.networks import Networks
    from worldsim.sampling.control_batch import ControlTensors
    from worldsim.sampling.world_state import WorldState

_MAX_STEP_RATIO = 10
"""Longest step, in typical steps of the source."""
_MAX_POSE_UNCERTAINTY = 100.0
"""Upper bound on pose uncertainty, in metres."""


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """Motion of the camera to the new frame."""

    vector: Tensor
    """Control vector [B, M]: keys, yaw, and what else the world is conditioned on."""
    twist: Tensor
    """Normalised [B, 6]."""
    pose_uncertainty: Tensor
    """Expected error of the new pose in metres [B]."""
    poses: Tensor
    """The new frame's camera-to-world, float64 [B, 4, 4]."""
    planar: Tensor | None
    to_previous: Tensor | None
    """Points of the new camera to points of the previous one [B, 4, 4]."""


def move_cameras(networks: Networks, state: WorldState, controls: ControlTensors) -> CameraMotion:
    """The explicit pose where one is given, elsewhere the motion head's prediction, kept on the ground."""
    if not networks.has_poses:
        still = state.poses.new_zeros(len(controls.vector), 6).float()
        return CameraMotion(controls.vector, still, state.pose_uncertainty, state.poses, None, None)
    if networks.motion_kernel is not None and kernels_enabled():
        steering = networks.steering(controls.vector)
        inputs = (state.poses, state.motion_history, state.pose_uncertainty, steering)
        motion = CameraMotion(
            controls.vector, *networks.motion_kernel(*inputs, _MAX_STEP_RATIO, _MAX_POSE_UNCERTAINTY)
        )
    else:
        motion = _predicted_motion(networks, state, controls)
    if controls.poses is None or controls.pose_mask is None:
        return motion
    return _with_given_poses(networks, state, motion, controls.poses, controls.pose_mask)


def _predicted_motion(networks: Networks, state: WorldState, controls: ControlTensors) -> CameraMotion:
    """Motion predicted from keys, projected onto the walkable map."""
    scale, divisor = _scales(networks.config.twist_scale, networks.device)
    planar, twists = se3.planar(state.poses), state.motion_history[..., :6] * scale.float()
    steering = networks.steering(controls.vector)[:, None]
    past_controls = torch.cat([state.motion_history[..., 6:], steering], 1)
    features, collision_fn = networks.dynamics_features(planar), networks.collision_fn(planar)
    step = networks.heads.predict_motion(
        state.agent.float(), features, past_controls, twists, planar[:, 2], collision_fn
    )
    pose_uncertainty = (state.pose_uncertainty * (1 + step.error_growth) + step.step_error).clamp(
        max=_MAX_POSE_UNCERTAINTY
    )
    twist = step.twist.double().clamp(-_MAX_STEP_RATIO * scale, _MAX_STEP_RATIO * scale)
    step_pose = se3.exp(twist)
    wanted = state.poses @ step_pose  # both are rigid by now
    poses = _project_to_ground(networks, state.poses, wanted)
    if poses is not wanted:  # row by row: who shares the batch with one that is held must not round otherwise
        held, short = (poses != wanted).flatten(1).any(1)[:, None], se3.relative(state.poses, poses)
        step_pose = torch.where(held[:, None], short, step_pose)
        twist = torch.where(held, se3.log(short, twist[:, 3:]), twist)
    return CameraMotion(
        controls.vector,
        (twist / divisor).float(),
        pose_uncertainty,
        poses,
        se3.planar(poses),
        step_pose.float(),
    )


def _with_given_poses(
    networks: Networks, state: WorldState, motion: CameraMotion, poses: Tensor, given: Tensor
) -> CameraMotion:
    """``motion``, but to ``poses`` [B, 4, 4] where they are ``given`` [B]."""
    assert motion.planar is not None
    assert motion.to_previous is not None
    _, divisor = _scales(networks.config.twist_scale, networks.device)
    asked, row = se3.relative(state.poses, poses), given[:, None]
    return replace(
        motion,
        twist=torch.where(row, (se3.log(asked) / divisor).float(), motion.twist),
        pose_uncertainty=torch.where(given, 0.0, motion.pose_uncertainty),
        poses=torch.where(row[:, None], poses, motion.poses),
        planar=torch.where(row, se3.planar(poses), motion.planar),
        to_previous=torch.where(row[:, None], asked.float(), motion.to_previous),
    )


def _project_to_ground(networks: Networks, poses: Tensor, wanted: Tensor) -> Tensor:
    """``wanted`` [B, 4, 4] projected onto the walkable map; the same tensor where nothing changes."""
    if networks.walkable_map is None:
        return wanted
    ground = networks.walkable_map.project(poses[:, :2, 3], wanted[:, :2, 3])
    if ground is None:
        return wanted
    held = wanted.clone()
    held[:, :2, 3] = ground
    return held


@cache
def _scales(scale: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor of normalised twists, and divisor of twists in metres and radians (1 where the scale is 0)."""
    with torch.inference_mode(False):
        factor = torch.tensor(scale, dtype=torch.float64, device=device)
        return factor, torch.where(factor > 0, factor, 1.0)
