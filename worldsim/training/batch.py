"""Batches: clips as tensors for the networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import Clip
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.tokenizer.protocol import MotionCondition


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """B windows of T frames on the weights' device."""

    frames: Tensor
    """[B, T, 3, H, W] in [-1, 1]."""
    vector: Tensor
    """Control vectors that led into each frame [B, T, M]."""
    twist: Tensor
    """Normalised, likewise [B, T, 6]."""
    condition: Tensor
    """Condition of the generator, of the two [B, T, Q]."""
    planar: Tensor | None
    """x, y, z, yaw of each frame's camera [B, T, 4]; None without poses."""
    to_previous: Tensor | None
    """Points of each camera to points of the one before [B, T, 4, 4]; None without poses."""
    rewards: Tensor
    """[B, T]"""
    ends: Tensor
    """True where the task ended on arriving, bool [B, T]."""

    @staticmethod
    def of(clip: Clip, networks: Networks, rng: np.random.Generator | None = None) -> TrainingBatch:
        """Convert ``clip`` for ``networks``; without poses if the networks have none.

        With ``rng`` conditions are withheld from some of the clips; see ``Conditions.withhold``.
        """
        device = networks.device
        twists = np.zeros((*clip.controls.shape[:2], 6), np.float32)
        planar = to_previous = None
        if clip.poses is not None and networks.has_poses:
            twists = normalised_twists(networks, clip.poses)
            before = np.concatenate([clip.poses[:, :1], clip.poses[:, :-1]], 1)
            planar = torch.from_numpy(camera.planar(clip.poses)).to(device).float()
            to_previous = torch.from_numpy(camera.relative(before, clip.poses)).to(device).float()
        vector, twist = torch.from_numpy(clip.controls).to(device), torch.from_numpy(twists).to(device)
        if rng is not None:
            vector = networks.conditions.withhold(vector, rng)
        return TrainingBatch(
            frames=to_model(clip.frames, device),
            vector=vector,
            twist=twist,
            condition=networks.condition(vector, twist),
            planar=planar,
            to_previous=to_previous,
            rewards=torch.from_numpy(clip.rewards).to(device),
            ends=torch.from_numpy(clip.ends).to(device),
        )

    def motion(self, t: int) -> MotionCondition:
        """Return the motion that leads to frame ``t`` of each window."""
        planar = None if self.planar is None else self.planar[:, t]
        to_previous = None if self.to_previous is None else self.to_previous[:, t]
        return MotionCondition(self.condition[:, t], planar, to_previous)


def normalised_twists(networks: Networks, poses: np.ndarray) -> np.ndarray:
    """Return normalised twists float32 [B, T, 6] of poses: the motion into each frame; 0 at t = 0."""
    steps = networks.normalise(camera.log(camera.relative(poses[:, :-1], poses[:, 1:])))
    return np.concatenate([np.zeros_like(steps[:, :1]), steps], 1)
