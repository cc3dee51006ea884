"""What is scored: teacher-forced frames and open loops."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.conftest import PretendedPlayer
from worldsim.engine.world import World
from worldsim.evaluation.measures import psnr
from worldsim.evaluation.open_loop import Walk, dream, score_dream, score_true
from worldsim.evaluation.teacher import Plan, teacher_forced
from worldsim.evaluation.trajectories import Trajectories, collect


@pytest.fixture
def true(player: PretendedPlayer) -> Trajectories:
    return collect(player, iter([0, 1, 3]), 3, 24)


def walk(true: Trajectories, **changes: object) -> Walk:
    return Walk(**{"context": 4, "frames": 20, "steps": 2, "controls": true.controls, **changes})


def test_teacher_forced_scores_one_frame_in_so_many(world: World, true: Trajectories) -> None:
    scores = teacher_forced(world, true, Plan(context=4, frames=20, every=5, steps=(2, 1)), 0)
    names = {"next_k2", "next_k1", "next_pose", "tokenizer", "copy", "unrelated", "place", "warp"}
    assert scores.keys() == names | {f"changed.{name}" for name in (*names, "pixels")}
    assert all(values.shape == (3, 4) for values in scores.values())
    expected = [psnr(true.frames[:, t - 1], true.frames[:, t]) for t in (4, 9, 14, 19)]
    assert np.array_equal(scores["copy"], np.stack(expected, 1))
    swapped = psnr(true.frames[[2, 0, 1], 4], true.frames[:, 4])
    assert np.array_equal(scores["unrelated"][:, 0], swapped)


def test_the_first_teacher_forced_frame_is_the_first_of_a_dream(world: World, true: Trajectories) -> None:
    plan = Plan(context=4, frames=1, every=1, steps=(2, 4))
    forced = teacher_forced(world, true, plan, 5)
    for k in plan.steps:
        dreamt = score_dream(world, true, walk(true, frames=1, steps=k), 5)
        assert forced[f"next_k{k}"] == pytest.approx(dreamt["psnr"], abs=0.01)
    posed = score_dream(world, true, walk(true, frames=1, poses=true.poses), 5)
    assert forced["next_pose"] == pytest.approx(posed["psnr"], abs=0.01)
    assert np.array_equal(posed["metres"], np.zeros((3, 1)))


def test_scoring_is_not_seen_by_the_memory(world: World, true: Trajectories) -> None:
    every, rare = (
        teacher_forced(world, true, Plan(context=4, frames=8, every=every, steps=(1,)), 0) for every in (1, 7)
    )
    assert every["next_k1"][:, 7] == pytest.approx(rare["next_k1"][:, 1], abs=1e-6)


def test_a_dream_follows_the_controls_given(world: World, true: Trajectories) -> None:
    ours, theirs = (
        [step.pose for steps in dream(world, true, walk(true, controls=controls), 0) for step in steps]
        for controls in (true.controls, np.roll(true.controls, 1, 0))
    )
    assert len(ours) == 60
    assert not np.allclose(ours, theirs)


def test_scores_of_a_dream(world: World, true: Trajectories) -> None:
    scores = dict(score_dream(world, true, walk(true), 0))
    assert scores.keys() == {"psnr", "gradient", "motion", "drift", "metres", "degrees", "track"}
    assert scores.pop("track").shape == (3, 20, 4)
    assert all(values.shape == (3, 20) and np.isfinite(values).all() for values in scores.values())


def test_scores_of_the_true_frames(true: Trajectories) -> None:
    scores = score_true(true, 4, 20)
    assert scores["psnr"][0, 6] == psnr(true.frames[0, 3], true.frames[0, 10])
    assert true.poses is not None
    gone = np.linalg.norm(true.poses[:, -1, :3, 3] - true.poses[:, 3, :3, 3], axis=-1)
    assert scores["metres"][:, -1] == pytest.approx(gone)
    assert (scores["motion"][:, 0] > 0).tolist() == (true.controls[:, 4, 0] > 0).tolist()
    assert (scores["blur"] == scores["blur"][:1]).all()
