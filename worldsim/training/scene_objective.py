"""Objective of the scene stage: random columns of random frames."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.scene.rays import Rays
from worldsim.scene.static_scene import StaticScene
from worldsim.training.stage import Logs, Objective


def scene_objective(scene: StaticScene, clips: ClipStore, views: int = 64, columns: int = 8) -> Objective:
    """Return squared error and a little L1, for sharp edges, of ``columns`` columns of ``views`` frames."""

    assert clips.spec.intrinsics is not None, "a static scene needs camera intrinsics"
    device = scene.occupancy.device
    rays = Rays.of(clips.spec.intrinsics, *clips.spec.size)
    rays = replace(rays, right=rays.right.to(device), down=rays.down.to(device))

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        clip = clips.sample(views, 1, rng)
        assert clip.poses is not None
        chosen = rng.integers(0, clip.frames.shape[3], (views, columns))
        pixels = clip.frames[np.arange(views)[:, None], 0, :, chosen]  # [views, columns, H, 3]
        target = torch.from_numpy(pixels).to(device).transpose(1, 2).float() / 127.5 - 1
        planar = torch.from_numpy(camera.planar(clip.poses[:, 0])).float().to(device)
        colour, _ = scene(planar, rays, torch.from_numpy(chosen).to(device))
        error = colour.float() - target
        squared = error.square().mean()
        return squared + 0.1 * error.abs().mean(), {"psnr": -10 * math.log10(squared.item() / 4)}

    return objective
