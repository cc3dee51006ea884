"""Tracks: what agrees is kept; where motions err places rule, and the other way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.camera import from_planar
from worldsim.evaluation.idm.fuse_track import fuse, motion_between, wrap_angle
from worldsim.evaluation.idm.model import ego_motion


def walk(clips: int = 3, frames: int = 30) -> torch.Tensor:
    """A track [B, T, 3] that turns through more than a full circle."""
    rng = np.random.default_rng(0)
    yaw = np.cumsum(rng.normal(0.25, 0.1, (clips, frames)), 1)
    steps = rng.uniform(0, 0.5, (clips, frames, 1)) * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    return torch.from_numpy(np.concatenate([np.cumsum(steps, 1), yaw[..., None]], -1)).float()


def trust(track: torch.Tensor, *weights: float) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.float32).expand(*track.shape[:2], 4)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    off = a - b
    return float(torch.cat([off[..., :2], wrap_angle(off[..., 2:])], -1).abs().max())


def test_motions_are_those_of_poses() -> None:
    track = walk()
    x, y, yaw = track.double().numpy().transpose(2, 0, 1)
    assert motion_between(track).numpy() == pytest.approx(ego_motion(from_planar(x, y, 1.3, yaw)), abs=1e-5)


def test_what_agrees_is_kept() -> None:
    track = walk()
    fused = fuse(track, motion_between(track), trust(track, 1, 1, 1, 1))
    assert apart(fused, track) < 1e-4


def test_places_keep_motions_from_adding_up_their_errors() -> None:
    track = walk()
    motion = motion_between(track) + torch.tensor([0.02, -0.02, 0.02])
    seen = track + 0.01 * torch.randn(track.shape, generator=torch.Generator().manual_seed(0))
    fused = fuse(seen, motion, trust(track, 1e4, 1e4, 1e2, 1e2))
    lost = fuse(seen, motion, trust(track, 1e-4, 1e-4, 1e4, 1e4))
    assert apart(motion_between(fused, 20), motion_between(track, 20)) < 0.1
    assert apart(motion_between(lost, 20), motion_between(track, 20)) > 0.3


def test_a_place_far_off_is_doubted() -> None:
    track = walk()
    seen = track.clone()
    seen[:, 12, :2] += 8
    fused = fuse(seen, motion_between(track), trust(track, 25, 1e3, 400, 1e4))
    assert apart(motion_between(fused), motion_between(track)) < 0.1


def test_gradients_reach_what_is_fused() -> None:
    track = walk(1, 6)
    seen, motion = track.clone().requires_grad_(), motion_between(track).requires_grad_()
    weights = trust(track, 1, 1, 1, 1).clone().requires_grad_()
    fuse(seen + 0.1, motion * 1.1, weights).square().sum().backward()
    for value in (seen, motion, weights):
        assert value.grad is not None
        assert value.grad.isfinite().all()
        assert value.grad.abs().sum() > 0
