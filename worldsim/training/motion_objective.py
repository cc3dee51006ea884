"""Learning how keys move the camera: needs poses and a learnt place, but no frames, so it is quick."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.training.stage import Logs, Objective


def twists_of(networks: Networks, poses: np.ndarray) -> np.ndarray:
    """Normalised twists float32 [B, T, 6] of ``poses`` [B, T, 4, 4]: what led into each frame; 0 at t = 0."""
    steps = networks.normalise(camera.log(camera.relative(poses[:, :-1], poses[:, 1:])))
    return np.concatenate([np.zeros_like(steps[:, :1]), steps], 1)


def motion_objective(networks: Networks, clips: ClipStore, batch: int = 1024) -> Objective:
    """Smooth L1 error of the next twist, given the surroundings, the last twists and the control."""
    past = networks.config.heads.twists
    scale = np.asarray(networks.config.twist_scale)

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        device = networks.device
        clip = clips.sample(batch, past + 2, rng, frames=False)
        assert clip.poses is not None
        twists = torch.from_numpy(twists_of(networks, clip.poses)).to(device)
        forget = torch.from_numpy(rng.random((batch, 1, 1)) < 0.1).to(device)
        before = twists[:, 1:-1].masked_fill(forget, 0.0)
        before = before + 0.02 * torch.from_numpy(rng.standard_normal(before.shape, np.float32)).to(device)
        planar = torch.from_numpy(camera.planar(clip.poses[:, -2])).float().to(device)
        with torch.no_grad():
            around = networks.tokenizer.surroundings(planar)
        control = torch.from_numpy(clip.controls[:, -1]).to(device)
        agent = torch.zeros(batch, networks.config.heads.width, device=device)
        error = networks.heads.move(agent, around, control, before) - twists[:, -1]
        size = error.detach().abs().mean(0).cpu().numpy() * scale
        loss = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)
        return loss, {"metres": float(size[:3].sum()), "degrees": float(np.degrees(size[3:].sum()))}

    return objective
