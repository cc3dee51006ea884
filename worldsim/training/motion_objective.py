"""Learning how keys move the camera, and what it is paid where: needs a learnt place but no frames.

The motion head's own errors are what it meets in play, so it learns on walks of its own: from a true moment
it goes on by what it predicts, and is held against where the camera truly went. Walks grow from one step to
many.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.model.heads import two_hot
from worldsim.networks import Networks
from worldsim.training.stage import Logs, Objective

_METRES, _RADIANS = 0.1, 0.05
"""Errors of place and direction that count as 1."""


def twists_of(networks: Networks, poses: np.ndarray) -> np.ndarray:
    """Normalised twists float32 [B, T, 6] of ``poses`` [B, T, 4, 4]: what led into each frame; 0 at t = 0."""
    steps = networks.normalise(camera.log(camera.relative(poses[:, :-1], poses[:, 1:])))
    return np.concatenate([np.zeros_like(steps[:, :1]), steps], 1)


def walk(planar: Tensor, twist: Tensor) -> Tensor:
    """Where level cameras ``planar`` [B, 4] (x, y, z, yaw) are after ``twist`` [B, 6] (metres, radians).

    The planar case of ``camera.exp``, with gradients: what leaves the ground or tilts is left out.
    """
    x, y, z, yaw = planar.unbind(-1)
    right, forward, turn = twist[:, 0], twist[:, 2], twist[:, 4]
    sine = torch.sinc(turn / torch.pi)
    cosine = torch.sinc(turn / (2 * torch.pi)) * torch.sin(turn / 2)  # (1 - cos turn) / turn
    right, forward = sine * right + cosine * forward, sine * forward - cosine * right
    x = x + right * yaw.sin() + forward * yaw.cos()
    y = y - right * yaw.cos() + forward * yaw.sin()
    return torch.stack([x, y, z, yaw - turn], -1)


def motion_objective(networks: Networks, clips: ClipStore, batch: int = 512, longest: int = 16) -> Objective:
    """Smooth L1 errors of a walk's twists, places and directions, under the true controls.

    Walks are of 1 step at first and of ``longest`` steps from the middle of the stage on. The batch shrinks
    with their length, so that a step of training takes about as long.
    """
    past = networks.config.heads.twists
    scale = torch.tensor(networks.config.twist_scale)

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        device = networks.device
        length = max(1, min(longest, round(2 * progress * longest)))
        clip = clips.sample(max(64, 2 * batch // (1 + length)), past + 1 + length, rng, frames=False)
        assert clip.poses is not None
        true = torch.from_numpy(camera.planar(clip.poses)).float().to(device)
        twists = torch.from_numpy(twists_of(networks, clip.poses)).to(device)
        controls = torch.from_numpy(clip.controls).to(device)
        before = _forget(twists[:, 1 : past + 1], rng)
        agent = torch.zeros(len(true), networks.config.heads.width, device=device)
        at, loss = true[:, past], true.new_zeros(())
        for t in range(past + 1, past + 1 + length):
            with torch.no_grad():
                around = networks.tokenizer.surroundings(at)
            twist = networks.heads.move(agent, around, controls[:, t], before)
            at, before = walk(at, twist * scale.to(device)), torch.cat([before[:, 1:], twist[:, None]], 1)
            error = _error(at, true[:, t])
            loss = loss + F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)
            loss = loss + F.smooth_l1_loss(twist, twists[:, t], beta=0.1)
        loss = loss / length + _outcome_loss(networks, clips, rng)
        size = error.detach().abs().mean(0).tolist()
        metres, degrees = _METRES * (size[0] + size[1]), float(np.degrees(_RADIANS * size[2]))
        return loss, {"metres": metres, "degrees": degrees, "walk": float(length)}

    return objective


def _outcome_loss(networks: Networks, clips: ClipStore, rng: np.random.Generator, batch: int = 512) -> Tensor:
    """Of reward and continuation where cameras were; a tenth of the moments are ends."""
    clip = clips.sample(batch, 2, rng, frames=False, ends=0.1)
    assert clip.poses is not None
    planar = torch.from_numpy(camera.planar(clip.poses[:, -1])).float().to(networks.device)
    with torch.no_grad():
        around = networks.tokenizer.surroundings(planar)
    reward, going_on = networks.heads.judge(planar.new_zeros(batch, 0), around)
    ends = torch.from_numpy(clip.ends[:, -1]).float().to(networks.device)
    wanted = two_hot(torch.from_numpy(clip.rewards[:, -1]).to(networks.device))
    loss = -(wanted * reward.log_softmax(-1)).sum(-1).mean()
    return loss + F.binary_cross_entropy_with_logits(going_on, 1 - ends)


def _forget(twists: Tensor, rng: np.random.Generator) -> Tensor:
    """A tenth of the pasts withheld, as in the first frames of a dream, the others a little wrong."""
    kept = torch.from_numpy(rng.random((len(twists), 1, 1)) >= 0.1).to(twists.device)
    noise = torch.from_numpy(rng.standard_normal(tuple(twists.shape), np.float32)).to(twists.device)
    return twists * kept + 0.02 * noise


def _error(at: Tensor, true: Tensor) -> Tensor:
    """x, y and yaw [B, 3] in multiples of what counts as 1; full turns do not count."""
    yaw = at[:, 3] - true[:, 3]
    yaw = torch.atan2(yaw.sin(), yaw.cos())
    return torch.stack([*((at - true)[:, :2] / _METRES).unbind(-1), yaw / _RADIANS], -1)
