"""Objective of the motion stage: camera dynamics under keys, and outcomes by position; needs no frames.

The linear part is fitted in closed form. The rest is trained on its own rollouts: from a true pose the
dynamics continue on their predictions and are compared with the true path. Training begins with rotations,
then rollouts of one step, then longer ones. In the last phase only the pose uncertainty is trained, on
rollouts as long as episodes: one that was trained on short rollouts grows without bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.model.dynamics import Dynamics, displacement_from_twist, twist_from_displacement
from worldsim.model.heads import two_hot
from worldsim.networks import Networks
from worldsim.training.camera_paths import CameraPath, CameraPaths
from worldsim.training.losses import pose_uncertainty_loss
from worldsim.training.stage import Logs, Objective

_METRES, _RADIANS = 0.1, 0.05
"""Units of position and direction errors."""
_ROTATION_ONLY, _ONE_STEP, _UNCERTAINTY_ONLY = 0.2, 0.5, 0.8
"""Progress at which rollouts begin, exceed one step, and train the pose uncertainty alone."""
_error = partial(F.smooth_l1_loss, beta=0.02)


def integrate(planar: Tensor, twist: Tensor) -> Tensor:
    """Move level cameras ``planar`` [B, 4] (x, y, z, yaw) by ``twist`` [B, 6] (metres, radians).

    The planar case of ``camera.exp``, with gradients; pitch and roll are ignored.
    """
    x, y, z, yaw = planar.unbind(-1)
    right, down, forward = displacement_from_twist(twist[:, :3], twist[:, 4]).unbind(-1)
    x = x + right * yaw.sin() + forward * yaw.cos()
    y = y - right * yaw.cos() + forward * yaw.sin()
    return torch.stack([x, y, z - down, yaw - twist[:, 4]], -1)


def motion_objective(
    networks: Networks,
    clips: ClipStore,
    batch: int = 1024,
    longest: int = 16,
    play: int = 192,
    warm: bool = False,
) -> Objective:
    """Smooth L1 loss of rotations, rollouts under the true controls, and outcomes; and of the uncertainty.

    Rollouts have up to ``longest`` steps, and ``play`` steps or the longest episode's where they train the
    uncertainty alone. The batch shrinks with their length, so that training steps take about the same time.
    ``warm`` dynamics are trained already and skip the rotation phase.
    """
    tracks, past = CameraPaths(clips), networks.config.heads.twists
    play = min(play, max(episode.length for episode in clips.episodes) - past - 1)

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        if progress >= _UNCERTAINTY_ONLY:
            track = tracks.sample(max(64, batch // play), past + 1 + play, rng)
            loss, logs = _uncertainty_loss(networks, track, rng)
            return loss, logs | {"rollout_length": float(play)}
        loss = _rotation_loss(networks, tracks.sample(4 * batch, past + 2, rng))
        logs = {"rotation": loss.item()}
        if not networks.uses_agent_token:
            loss = loss + _outcome_loss(networks, clips, rng)
        if warm:
            progress = _ROTATION_ONLY + progress * (1 - _ROTATION_ONLY)
        if progress >= _ROTATION_ONLY:
            share = (progress - _ONE_STEP) / (_UNCERTAINTY_ONLY - _ONE_STEP)
            length = max(1, min(longest, round(2 * share * longest)))
            track = tracks.sample(max(64, 2 * batch // (1 + length)), past + 1 + length, rng)
            rollout_loss, error = _rollout_loss(networks, track, rng)
            loss, logs = loss + rollout_loss, logs | error | {"rollout_length": float(length)}
        return loss, logs

    return objective


def fit_linear_dynamics(networks: Networks, clips: ClipStore, batch: int = 60_000) -> None:
    """Set the linear part of dynamics by robust least squares (iteratively reweighted, for the mean absolute
    error): steps into walls, which are not linear, count for little."""
    dynamics = _dynamics(networks)
    past, rng = networks.config.heads.twists, np.random.default_rng(0)
    track = CameraPaths(clips).sample(batch, past + 2, rng)
    now = track.twists[:, -1]
    with torch.no_grad():
        inputs = dynamics.linear_inputs(track.controls[:, 1:], track.twists[:, 1:-1], now[:, 3:]).double()
        moved = displacement_from_twist(now[:, :3], now[:, 4]).double()
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
        weight, ridge = torch.ones_like(inputs[:, :1]), 1e-6 * torch.eye(inputs.shape[1]).double()
        for _ in range(30):
            solution = torch.linalg.solve((inputs * weight).T @ inputs + ridge, (inputs * weight).T @ moved)
            weight = 1 / ((inputs @ solution - moved)[:, ::2].norm(dim=1, keepdim=True) + 2e-3)
        solution[:, 1] = 0  # head bob is no linear function of the inputs
        dynamics.linear.weight.copy_(solution[:-1].T)
        dynamics.linear.bias.copy_(solution[-1])


def _dynamics(networks: Networks) -> Dynamics:
    motion = networks.heads.motion
    assert motion is not None, "only a source with poses has dynamics"
    return motion


def _rotation_loss(networks: Networks, track: CameraPath) -> Tensor:
    """Return the loss of one step's rotation."""
    device = networks.device
    controls, before = track.controls[:, 1:].to(device), track.twists[:, 1:-1].to(device)
    error = (
        _dynamics(networks).predict_rotation(controls, before) - track.twists[:, -1, 3:].to(device)
    ) / _RADIANS
    return _error(error, torch.zeros_like(error)) + 0.1 * error.square().mean()


@dataclass(frozen=True, slots=True)
class _RolloutStep:
    """A step of a rollout."""

    error: Tensor
    """Error of position, height and direction, in units [B, 4]."""
    step_error: Tensor
    """Error of the step alone, likewise [B, 3]."""
    pose_uncertainty: Tensor
    """Expected pose error so far, in metres [B]."""


def _rollout(
    networks: Networks, track: CameraPath, rng: np.random.Generator, *, trains_steps: bool
) -> Iterator[_RolloutStep]:
    """Roll the dynamics out. Without ``trains_steps`` only the uncertainty gets a gradient."""
    device, past = networks.device, networks.config.heads.twists
    true, twists, controls = (part.to(device) for part in (track.planar, track.twists, track.controls))
    at, before = true[:, past], _noised(twists[:, 1 : past + 1], rng)
    pose_uncertainty = torch.zeros_like(at[:, 0])
    for t in range(past + 1, true.shape[1]):
        with torch.no_grad():
            around = networks.dynamics_features(at)
        assert around is not None, "the motion stage needs a static scene"
        step = _dynamics(networks)(
            around, controls[:, t - past : t + 1], before, at[:, 2], networks.collision_fn(at.detach())
        )
        at, twist = _on_ground(networks, at, step.twist if trains_steps else step.twist.detach())
        pose_uncertainty = pose_uncertainty * (1 + step.error_growth) + step.step_error
        before = torch.cat([before[:, 1:], twist[:, None]], 1)
        yield _RolloutStep(
            _pose_error(at, true[:, t]), (twist - twists[:, t])[:, :3] / _METRES, pose_uncertainty
        )


def _rollout_loss(networks: Networks, track: CameraPath, rng: np.random.Generator) -> tuple[Tensor, Logs]:
    """Return the loss of poses and twists along the rollout, and the final errors."""
    losses = []
    for step in _rollout(networks, track, rng, trains_steps=True):
        error, step_error = step.error, step.step_error
        loss = _error(error, torch.zeros_like(error)) + _error(step_error, torch.zeros_like(step_error))
        losses.append(loss + 0.1 * _step_uncertainty_loss(step))
    size = error.detach().abs().mean(0).tolist()
    degrees = float(np.degrees(_RADIANS * size[3]))
    return torch.stack(losses).mean(), {"metres": _METRES * (size[0] + size[1]), "degrees": degrees}


def _uncertainty_loss(networks: Networks, track: CameraPath, rng: np.random.Generator) -> tuple[Tensor, Logs]:
    """Return the loss of the pose uncertainty along the rollout, and its final value beside the error."""
    steps = list(_rollout(networks, track, rng, trains_steps=False))
    pose_uncertainty, error = (
        steps[-1].pose_uncertainty.mean().item(),
        steps[-1].error[:, :2].norm(dim=1).mean().item(),
    )
    return torch.stack([_step_uncertainty_loss(step) for step in steps]).mean(), {
        "metres": _METRES * error,
        "pose_uncertainty": pose_uncertainty,
    }


def _step_uncertainty_loss(step: _RolloutStep) -> Tensor:
    return pose_uncertainty_loss(
        step.pose_uncertainty, _METRES * step.error[:, :2].norm(dim=1), _RADIANS * step.error[:, 3].abs()
    )


def _on_ground(networks: Networks, at: Tensor, twist: Tensor) -> tuple[Tensor, Tensor]:
    """Move cameras ``at`` [B, 4] by ``twist`` [B, 6] on the walkable map; return them and the actual twist.

    Gradients ignore the walls.
    """
    after = integrate(at, twist)
    projected = None
    if networks.walkable_map is not None:
        projected = networks.walkable_map.project(at[:, :2].detach().double(), after[:, :2].detach().double())
    if projected is None:
        return after, twist
    after = torch.cat([after[:, :2] + (projected - after[:, :2].detach()).float(), after[:, 2:]], 1)
    (x, y), yaw = (after - at)[:, :2].unbind(-1), at[:, 3]
    moved = [x * yaw.sin() - y * yaw.cos(), twist[:, 1], x * yaw.cos() + y * yaw.sin()]
    return after, torch.cat([twist_from_displacement(torch.stack(moved, -1), twist[:, 4]), twist[:, 3:]], 1)


def _outcome_loss(networks: Networks, clips: ClipStore, rng: np.random.Generator, batch: int = 512) -> Tensor:
    """Return the loss of reward and continuation at camera poses; a tenth of them are ends."""
    clip = clips.sample(batch, 2, rng, frames=False, ends=0.1)
    assert clip.poses is not None
    planar = torch.from_numpy(camera.planar(clip.poses[:, -1])).float().to(networks.device)
    with torch.no_grad():
        around = networks.scene_features(planar)
    reward, continue_prob = networks.heads.predict_outcome(planar.new_zeros(batch, 0), around)
    ends = torch.from_numpy(clip.ends[:, -1]).float().to(networks.device)
    wanted = two_hot(torch.from_numpy(clip.rewards[:, -1]).to(networks.device))
    loss = -(wanted * reward.log_softmax(-1)).sum(-1).mean()
    return loss + F.binary_cross_entropy_with_logits(continue_prob, 1 - ends)


def _noised(twists: Tensor, rng: np.random.Generator) -> Tensor:
    """Add noise of a millimetre and a milliradian, as a rollout has."""
    return twists + 1e-3 * torch.from_numpy(rng.standard_normal(tuple(twists.shape), np.float32)).to(
        twists.device
    )


def _pose_error(at: Tensor, true: Tensor) -> Tensor:
    """Return errors of x, y, z and yaw [B, 4] in units; full turns are ignored."""
    yaw = at[:, 3] - true[:, 3]
    yaw = torch.atan2(yaw.sin(), yaw.cos())
    return torch.stack([*((at - true)[:, :3] / _METRES).unbind(-1), yaw / _RADIANS], -1)
