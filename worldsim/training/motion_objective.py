"""Learning how keys move the camera, and what it is paid where: needs a learnt place but no frames.

What is nearly linear is solved for at once. Dynamics' own errors are what they meet in play, so the rest is
learnt on walks: from a true moment they go on by what they predict, and are held against where the camera
truly went. First comes the turn, then walks of one step, then ever longer ones. At last all but the doubt is
left as it is, and walks are as long as play: a doubt that has only seen short ones grows without bounds.
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
"""Errors of place and direction that count as 1."""
_ROTATION_ONLY, _ONE_STEP, _UNCERTAINTY_ONLY = 0.2, 0.5, 0.8
"""Shares of the stage at which walks begin, become longer than one step, and teach doubt alone."""
_error = partial(F.smooth_l1_loss, beta=0.02)


def walk(planar: Tensor, twist: Tensor) -> Tensor:
    """Where level cameras ``planar`` [B, 4] (x, y, z, yaw) are after ``twist`` [B, 6] (metres, radians).

    The planar case of ``camera.exp``, with gradients: what tilts is left out.
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
    """Smooth L1 errors of turns, walks under the true controls, and outcomes; and what errors to expect.

    Walks have up to ``longest`` steps and, where they teach doubt alone, ``play`` or what episodes allow. The
    batch shrinks with their length, so that a step of training takes about as long. ``warm`` dynamics, which
    have learnt to turn, begin with walks.
    """
    tracks, past = CameraPaths(clips), networks.config.heads.twists
    play = min(play, max(episode.length for episode in clips.episodes) - past - 1)

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        if progress >= _UNCERTAINTY_ONLY:
            track = tracks.sample(max(64, batch // play), past + 1 + play, rng)
            loss, logs = _uncertainty_loss(networks, track, rng)
            return loss, logs | {"walk": float(play)}
        loss = _rotation_loss(networks, tracks.sample(4 * batch, past + 2, rng))
        logs = {"turn": loss.item()}
        if not networks.uses_agent_token:
            loss = loss + _outcome_loss(networks, clips, rng)
        if warm:
            progress = _ROTATION_ONLY + progress * (1 - _ROTATION_ONLY)
        if progress >= _ROTATION_ONLY:
            share = (progress - _ONE_STEP) / (_UNCERTAINTY_ONLY - _ONE_STEP)
            length = max(1, min(longest, round(2 * share * longest)))
            track = tracks.sample(max(64, 2 * batch // (1 + length)), past + 1 + length, rng)
            walked, off = _walk_loss(networks, track, rng)
            loss, logs = loss + walked, logs | off | {"walk": float(length)}
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
        told = dynamics.pushes(track.controls[:, 1:], track.twists[:, 1:-1], now[:, 3:]).double()
        moved = displacement_from_twist(now[:, :3], now[:, 4]).double()
        told = torch.cat([told, torch.ones_like(told[:, :1])], 1)
        weight, ridge = torch.ones_like(told[:, :1]), 1e-6 * torch.eye(told.shape[1]).double()
        for _ in range(30):
            mixture = torch.linalg.solve((told * weight).T @ told + ridge, (told * weight).T @ moved)
            weight = 1 / ((told @ mixture - moved)[:, ::2].norm(dim=1, keepdim=True) + 2e-3)
        mixture[:, 1] = 0  # the swing of a walk is no mixture of pushes
        dynamics.push.weight.copy_(mixture[:-1].T)
        dynamics.push.bias.copy_(mixture[-1])


def _dynamics(networks: Networks) -> Dynamics:
    motion = networks.heads.motion
    assert motion is not None, "only a source with poses has dynamics"
    return motion


def _rotation_loss(networks: Networks, track: CameraPath) -> Tensor:
    """Of one step's rotation."""
    device = networks.device
    controls, before = track.controls[:, 1:].to(device), track.twists[:, 1:-1].to(device)
    error = (_dynamics(networks).turns(controls, before) - track.twists[:, -1, 3:].to(device)) / _RADIANS
    return _error(error, torch.zeros_like(error)) + 0.1 * error.square().mean()


@dataclass(frozen=True, slots=True)
class _RolloutStep:
    """A step of a walk."""

    off: Tensor
    """Of place, height and direction, in multiples of what counts as 1 [B, 4]."""
    slip: Tensor
    """Error of the step alone, likewise [B, 3]."""
    doubt: Tensor
    """Error to be expected until here, in metres [B]."""


def _walk(
    networks: Networks, track: CameraPath, rng: np.random.Generator, *, teaches_steps: bool
) -> Iterator[_RolloutStep]:
    """Walk along. Where it does not teach steps, only doubt gets a gradient."""
    device, past = networks.device, networks.config.heads.twists
    true, twists, controls = (part.to(device) for part in (track.planar, track.twists, track.controls))
    at, before = true[:, past], _noised(twists[:, 1 : past + 1], rng)
    doubt = torch.zeros_like(at[:, 0])
    for t in range(past + 1, true.shape[1]):
        with torch.no_grad():
            around = networks.dynamics_features(at)
        assert around is not None, "the motion stage is for sources with a place"
        step = _dynamics(networks)(
            around, controls[:, t - past : t + 1], before, at[:, 2], networks.collision_fn(at.detach())
        )
        at, twist = _on_ground(networks, at, step.twist if teaches_steps else step.twist.detach())
        doubt = doubt * (1 + step.spread) + step.slip
        before = torch.cat([before[:, 1:], twist[:, None]], 1)
        yield _RolloutStep(_off(at, true[:, t]), (twist - twists[:, t])[:, :3] / _METRES, doubt)


def _walk_loss(networks: Networks, track: CameraPath, rng: np.random.Generator) -> tuple[Tensor, Logs]:
    """Of places, heights, directions and twists on the way; and how far off the last ones are."""
    losses = []
    for stride in _walk(networks, track, rng, teaches_steps=True):
        off, slip = stride.off, stride.slip
        loss = _error(off, torch.zeros_like(off)) + _error(slip, torch.zeros_like(slip))
        losses.append(loss + 0.1 * _step_uncertainty_loss(stride))
    size = off.detach().abs().mean(0).tolist()
    degrees = float(np.degrees(_RADIANS * size[3]))
    return torch.stack(losses).mean(), {"metres": _METRES * (size[0] + size[1]), "degrees": degrees}


def _uncertainty_loss(networks: Networks, track: CameraPath, rng: np.random.Generator) -> tuple[Tensor, Logs]:
    """Of the doubt on the way; and what is expected and what is so in the end."""
    strides = list(_walk(networks, track, rng, teaches_steps=False))
    doubt, off = strides[-1].pose_uncertainty.mean().item(), strides[-1].off[:, :2].norm(dim=1).mean().item()
    return torch.stack([_step_uncertainty_loss(stride) for stride in strides]).mean(), {
        "metres": _METRES * off,
        "doubt": doubt,
    }


def _step_uncertainty_loss(stride: _RolloutStep) -> Tensor:
    return pose_uncertainty_loss(
        stride.pose_uncertainty, _METRES * stride.off[:, :2].norm(dim=1), _RADIANS * stride.off[:, 3].abs()
    )


def _on_ground(networks: Networks, at: Tensor, twist: Tensor) -> tuple[Tensor, Tensor]:
    """Where ``twist`` [B, 6] brings cameras ``at`` [B, 4], as the footing lets it, and the twist made of it.

    Gradients pass as if there were no walls.
    """
    after = walk(at, twist)
    held = None
    if networks.walkable_map is not None:
        held = networks.walkable_map.project(at[:, :2].detach().double(), after[:, :2].detach().double())
    if held is None:
        return after, twist
    after = torch.cat([after[:, :2] + (held - after[:, :2].detach()).float(), after[:, 2:]], 1)
    (x, y), yaw = (after - at)[:, :2].unbind(-1), at[:, 3]
    moved = [x * yaw.sin() - y * yaw.cos(), twist[:, 1], x * yaw.cos() + y * yaw.sin()]
    return after, torch.cat([twist_from_displacement(torch.stack(moved, -1), twist[:, 4]), twist[:, 3:]], 1)


def _outcome_loss(networks: Networks, clips: ClipStore, rng: np.random.Generator, batch: int = 512) -> Tensor:
    """Of reward and continuation where cameras were; a tenth of the moments are ends."""
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
    """Pasts that are a millimetre and a milliradian wrong, as in a dream."""
    return twists + 1e-3 * torch.from_numpy(rng.standard_normal(tuple(twists.shape), np.float32)).to(
        twists.device
    )


def _off(at: Tensor, true: Tensor) -> Tensor:
    """x, y, z and yaw [B, 4] in multiples of what counts as 1; full turns do not count."""
    yaw = at[:, 3] - true[:, 3]
    yaw = torch.atan2(yaw.sin(), yaw.cos())
    return torch.stack([*((at - true)[:, :3] / _METRES).unbind(-1), yaw / _RADIANS], -1)
