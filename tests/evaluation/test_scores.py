"""Scores of teacher-forced frames and of rollouts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.conftest import PretendedCollector
from worldsim.engine.world import World
from worldsim.evaluation.image_metrics import psnr
from worldsim.evaluation.rollouts import RolloutConfig, rollout, score_rollout, score_static
from worldsim.evaluation.teacher_forced import TeacherForcing, score_teacher_forced
from worldsim.evaluation.trajectories import Trajectories, collect


@pytest.fixture
def true(collector: PretendedCollector) -> Trajectories:
    return collect(collector, iter([0, 1, 3]), 3, 24)


def config(true: Trajectories, **changes: object) -> RolloutConfig:
    return RolloutConfig(
        **{"context": 4, "frames": 20, "denoising_steps": 2, "controls": true.controls, **changes}
    )


def test_teacher_forced_scores_one_frame_in_so_many(world: World, true: Trajectories) -> None:
    scores = score_teacher_forced(
        world, true, TeacherForcing(context=4, frames=20, every=5, denoising_steps=(2, 1)), 0
    )
    names = {"next_k2", "next_k1", "next_pose", "tokenizer", "copy", "unrelated", "scene", "warp"}
    assert scores.keys() == names | {f"changed.{name}" for name in (*names, "pixels")}
    assert all(values.shape == (3, 4) for values in scores.values())
    expected = [psnr(true.frames[:, t - 1], true.frames[:, t]) for t in (4, 9, 14, 19)]
    assert np.array_equal(scores["copy"], np.stack(expected, 1))
    swapped = psnr(true.frames[[2, 0, 1], 4], true.frames[:, 4])
    assert np.array_equal(scores["unrelated"][:, 0], swapped)


def test_the_first_teacher_forced_frame_is_the_first_of_a_rollout(world: World, true: Trajectories) -> None:
    forcing = TeacherForcing(context=4, frames=1, every=1, denoising_steps=(2, 4))
    forced = score_teacher_forced(world, true, forcing, 5)
    for k in forcing.denoising_steps:
        imagined = score_rollout(world, true, config(true, frames=1, denoising_steps=k), 5)
        assert forced[f"next_k{k}"] == pytest.approx(imagined["psnr"], abs=0.01)
    posed = score_rollout(world, true, config(true, frames=1, poses=true.poses), 5)
    assert forced["next_pose"] == pytest.approx(posed["psnr"], abs=0.01)
    assert np.array_equal(posed["metres"], np.zeros((3, 1)))


def test_scoring_is_not_seen_by_the_memory(world: World, true: Trajectories) -> None:
    every, rare = (
        score_teacher_forced(
            world, true, TeacherForcing(context=4, frames=8, every=every, denoising_steps=(1,)), 0
        )
        for every in (1, 7)
    )
    assert every["next_k1"][:, 7] == pytest.approx(rare["next_k1"][:, 1], abs=1e-6)


def test_a_rollout_follows_the_controls_given(world: World, true: Trajectories) -> None:
    ours, theirs = (
        [step.pose for steps in rollout(world, true, config(true, controls=controls), 0) for step in steps]
        for controls in (true.controls, np.roll(true.controls, 1, 0))
    )
    assert len(ours) == 60
    assert not np.allclose(ours, theirs)


def test_scores_of_a_rollout(world: World, true: Trajectories) -> None:
    scores = dict(score_rollout(world, true, config(true), 0))
    assert scores.keys() == {"psnr", "gradient", "motion", "uncertainty", "metres", "degrees", "track"}
    assert scores.pop("track").shape == (3, 20, 4)
    assert all(values.shape == (3, 20) and np.isfinite(values).all() for values in scores.values())


def test_scores_of_the_true_frames(true: Trajectories) -> None:
    scores = score_static(true, 4, 20)
    assert scores["psnr"][0, 6] == psnr(true.frames[0, 3], true.frames[0, 10])
    assert true.poses is not None
    gone = np.linalg.norm(true.poses[:, -1, :3, 3] - true.poses[:, 3, :3, 3], axis=-1)
    assert scores["metres"][:, -1] == pytest.approx(gone)
    assert (scores["motion"][:, 0] > 0).tolist() == (true.controls[:, 4, 0] > 0).tolist()
    assert (scores["blur"] == scores["blur"][:1]).all()
