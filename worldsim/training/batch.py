"""A clip, ready for the networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import Clip
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.tokenizer.protocol import Motion
from worldsim.training.motion_objective import twists_of


@dataclass(frozen=True, slots=True)
class Batch:
    """B windows of T frames on the weights' device."""

    frames: Tensor
    """[B, T, 3, H, W] in [-1, 1]."""
    vector: Tensor
    """Keys and look that led into each frame [B, T, M]."""
    twist: Tensor
    """Normalised, likewise [B, T, 6]."""
    condition: Tensor
    """What pictures are conditioned on of the two [B, T, M + 6]."""
    planar: Tensor | None
    """x, y, z, yaw of each frame's camera [B, T, 4]; None without poses."""
    back: Tensor | None
    """Points of each camera to points of the one before [B, T, 4, 4]; None without poses."""
    rewards: Tensor
    """[B, T]"""
    ends: Tensor
    """Whether the task ended on arriving, bool [B, T]."""

    @staticmethod
    def of(clip: Clip, networks: Networks) -> Batch:
        """``clip`` as ``networks`` take it; its poses are left out where they know none."""
        device = networks.device
        twists = np.zeros((*clip.controls.shape[:2], 6), np.float32)
        planar = back = None
        if clip.poses is not None and networks.has_poses:
            twists = twists_of(networks, clip.poses)
            before = np.concatenate([clip.poses[:, :1], clip.poses[:, :-1]], 1)
            planar = torch.from_numpy(camera.planar(clip.poses)).to(device).float()
            back = torch.from_numpy(camera.relative(before, clip.poses)).to(device).float()
        vector, twist = torch.from_numpy(clip.controls).to(device), torch.from_numpy(twists).to(device)
        return Batch(
            frames=to_model(clip.frames, device),
            vector=vector,
            twist=twist,
            condition=networks.condition(vector, twist),
            planar=planar,
            back=back,
            rewards=torch.from_numpy(clip.rewards).to(device),
            ends=torch.from_numpy(clip.ends).to(device),
        )

    def motion(self, t: int) -> Motion:
        """How the camera gets to frame ``t`` of each window."""
        planar = None if self.planar is None else self.planar[:, t]
        back = None if self.back is None else self.back[:, t]
        return Motion(self.condition[:, t], planar, back)
