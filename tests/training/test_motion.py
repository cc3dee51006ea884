"""Dynamics: the linear part is fitted, the rest is trained on rollouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.model.dynamics import displacement_from_twist
from worldsim.networks import Networks
from worldsim.training.camera_paths import CameraPaths
from worldsim.training.motion_objective import fit_linear_dynamics, motion_objective
from worldsim.training.plan import prepare_scene
from worldsim.training.recipes import Recipe


def build(recipe: Recipe, clips: ClipStore) -> Networks:
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec)
    prepare_scene(networks, clips)
    return networks


def test_tracks_are_those_of_the_clips(clips: ClipStore) -> None:
    track = CameraPaths(clips).sample(6, 5, np.random.default_rng(3))
    clip = clips.sample(6, 5, np.random.default_rng(3), frames=False)
    assert clip.poses is not None
    np.testing.assert_allclose(track.planar, camera.planar(clip.poses), atol=1e-5)
    np.testing.assert_array_equal(track.controls[:, 1:], clip.controls[:, 1:])
    twists = camera.log(camera.relative(clip.poses[:, :-1], clip.poses[:, 1:]))
    np.testing.assert_allclose(track.twists[:, 1:], twists, atol=1e-5)


def test_the_linear_part_is_fitted(recipe: Recipe, clips: ClipStore) -> None:
    networks, past = build(recipe, clips), 4
    fit_linear_dynamics(networks, clips, batch=500)
    assert networks.heads.motion is not None
    track = CameraPaths(clips).sample(50, past + 2, np.random.default_rng(1))
    now = track.twists[:, -1]
    told = networks.heads.motion.linear_inputs(track.controls[:, 1:], track.twists[:, 1:-1], now[:, 3:])
    torch.testing.assert_close(
        networks.heads.motion.linear(told), displacement_from_twist(now[:, :3], now[:, 4]), atol=2e-3, rtol=0
    )


@pytest.mark.slow
def test_rollouts_get_better(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(recipe, clips)
    fit_linear_dynamics(networks, clips, batch=500)
    objective = motion_objective(networks, clips, batch=64, longest=4)
    optimizer = torch.optim.Adam(networks.heads.parameters(), 3e-3)
    off = []
    for step in range(60):
        loss, logs = objective(np.random.default_rng(step), 0.79)
        assert logs["rollout_length"] == 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        off.append(logs["metres"] + logs["degrees"])
    assert np.mean(off[-5:]) < 0.5 * np.mean(off[:5])


def test_rotations_are_learnt_first(recipe: Recipe, clips: ClipStore) -> None:
    objective = motion_objective(build(recipe, clips), clips, batch=16)
    assert "rollout_length" not in objective(np.random.default_rng(0), 0.0)[1]
    lengths = [
        objective(np.random.default_rng(0), progress)[1]["rollout_length"] for progress in (0.3, 0.6, 0.79)
    ]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (1, 16)
    at_last = objective(np.random.default_rng(0), 1.0)[1]
    assert set(at_last) == {"metres", "pose_uncertainty", "rollout_length"}
    longest = max(episode.length for episode in clips.episodes)
    assert at_last["rollout_length"] < longest
    assert at_last["rollout_length"] >= longest - 6
