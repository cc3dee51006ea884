"""Keys, loops, long rollouts, ends: each against a pretended environment."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.evaluation.conftest import RoomCollector
from worldsim.controls import Control
from worldsim.engine.world import World
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.evaluation import action_effects, loop_closure, outcomes
from worldsim.evaluation.drift import (
    drift_metrics,
    frame_at_rest,
    frechet,
    idle_controls,
    idle_metrics,
    long_rollout,
    random_controls,
    source_rollouts,
    split_half_distance,
)
from worldsim.evaluation.idm.model import InverseDynamicsModel, ego_motion, resize_for_idm
from worldsim.evaluation.simulator import BranchPoint, act, branch_points, replay_to
from worldsim.evaluation.tasks import TaskSizes, prepare


def test_a_moment_can_be_gone_back_to(room_collector: RoomCollector, found: list[BranchPoint]) -> None:
    for branch_point in found:
        context = branch_point.context
        assert np.array_equal(replay_to(room_collector.source, branch_point).frame, context.frames[-1])
        assert branch_point.future.shape == (20, room_collector.spec.control_space.size)
        assert context.action_prefix is not None
        assert np.array_equal(context.action_prefix[-3:], context.controls[1:])


def test_the_environment_goes_on_from_a_moment_as_its_episode_did(
    room_collector: RoomCollector, found: list[BranchPoint]
) -> None:
    branch_point, space = found[1], room_collector.spec.control_space
    run = act(room_collector.source, branch_point, map(space.from_vector, branch_point.future))
    assert run is not None
    episode = room_collector.play(1)
    at = len(branch_point.context.action_prefix)  # type: ignore[arg-type]
    assert np.array_equal(run.frames, episode.frames[at : at + 21])
    assert np.array_equal(run.controls[1:], branch_point.future)


def effects_of(room_collector: RoomCollector, found: list[BranchPoint]) -> dict[str, np.ndarray]:
    """The environment's motions under every action, from its poses."""
    held = action_effects.tested_actions(DOOM_KEYS)
    motion = []
    for branch_point in found:
        runs = [
            act(
                room_collector.source,
                branch_point,
                [Control([key] if key else ())] * action_effects.KEY_FRAMES,
            )
            for key in held
        ]
        motion.append([ego_motion(run.poses) for run in runs if run and run.poses is not None])
    return {"motion": np.array(motion), "true": np.array(motion)}


def test_who_moves_as_the_environment_does_obeys(
    room_collector: RoomCollector, found: list[BranchPoint]
) -> None:
    real = effects_of(room_collector, found)
    metrics = action_effects.action_effect_metrics(real["motion"], real, DOOM_KEYS)
    assert (
        metrics["opposite_action_accuracy"].value == metrics["opposite_action_accuracy"].upper_reference == 1
    )
    assert metrics["action_latency_frames"].value == 1
    names, table = action_effects.confusion(real["motion"], real, DOOM_KEYS)
    assert names == ("none", *DOOM_KEYS)
    assert np.array_equal(table, np.diag(np.diag(table)))
    assert (np.diag(table) > 0).all()


def test_who_mixes_up_left_and_right_does_not(
    room_collector: RoomCollector, found: list[BranchPoint]
) -> None:
    real = effects_of(room_collector, found)
    swapped = list(range(1 + len(DOOM_KEYS)))
    left, right = 1 + DOOM_KEYS.index("turn_left"), 1 + DOOM_KEYS.index("turn_right")
    swapped[left], swapped[right] = right, left
    metrics = action_effects.action_effect_metrics(real["motion"][:, swapped], real, DOOM_KEYS)
    assert metrics["opposite_action_accuracy"].value == pytest.approx(2 / 3, abs=0.12)
    static = action_effects.action_effect_metrics(np.zeros_like(real["motion"]), real, DOOM_KEYS)
    assert static["opposite_action_accuracy"].value == 0
    assert static["action_latency_frames"].value == pytest.approx(action_effects.KEY_FRAMES + 1)


def test_walls_count_for_nothing(room_collector: RoomCollector, found: list[BranchPoint]) -> None:
    real = effects_of(room_collector, found)
    real["true"] = np.zeros_like(real["true"])
    assert action_effects.action_effect_metrics(real["motion"], real, DOOM_KEYS) == {}


@pytest.mark.slow
def test_loops_come_back(room_collector: RoomCollector, found: list[BranchPoint], world: World) -> None:
    ways = loop_closure.source_loops(room_collector.source, found, 30)
    assert len(ways) == 3
    for way in ways:
        assert way.run.poses is not None
        first, again = way.run.poses[way.first], way.run.poses[way.again]
        assert np.linalg.norm(first[:, :3, 3] - again[:, :3, 3], axis=-1).max() < 0.12
        assert np.abs(ego_motion(np.stack([first, again], 1))[..., 2]).max() < 0.02
    scores = loop_closure.score_loops(world, ways, 1, 0)
    assert all(values.shape == (3, 4) and np.isfinite(values).all() for values in scores.values())
    assert (scores["real_self"][0] > 35).all()
    metrics = loop_closure.loop_closure_metrics(scores, 8, 30.0)
    assert set(metrics) == {
        "loop_closure_8s_psnr",
        "loop_closure_8s_psnr_keys_only",
        "loop_closure_8s_self_psnr",
        "loop_closure_8s_self_psnr_keys_only",
    }


def test_random_play_holds_its_actions(world: World) -> None:
    space = world.spec.control_space
    rows = random_controls(space, np.random.default_rng(0), 200)
    assert rows.shape == (200, space.size)
    holds = [len(list(group)) for _, group in itertools.groupby(map(tuple, rows))]
    assert np.mean(holds) > 4


def test_long_rollouts(
    room_collector: RoomCollector, found: list[BranchPoint], world: World, idm: InverseDynamicsModel
) -> None:
    space = world.spec.control_space
    controls = np.stack([random_controls(space, np.random.default_rng(i), 20) for i in range(3)])
    rest = np.stack([frame_at_rest(room_collector.source, branch_point) for branch_point in found])
    rollout = long_rollout(world, idm, found, controls, rest, denoising_steps=1, seed=0)
    assert rollout["motion"].shape == (3, 20)
    assert rollout["features"].shape == (3, 4, 4)
    real = source_rollouts(room_collector.source, idm, found, 20, 0)
    metrics = drift_metrics(rollout, real)
    assert set(metrics) == {"drift_ratio", "drift_gradient_ratio", "drift_frame_diff_ratio"}
    same = drift_metrics(real, real)
    assert same["drift_frame_diff_ratio"].value > 0
    idle = long_rollout(
        world, None, found[:2], idle_controls(space, 2, 10), rest[:2], denoising_steps=1, seed=0
    )
    assert set(idle_metrics(idle, 10.0, 30.0)) == {"idle_psnr", "idle_frame_diff"}


def test_the_frechet_distance_is_that_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40_000, 3))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, 2 * a + (3, 0, 0)) == pytest.approx(9 + 3, rel=0.03)
    assert frechet(a, a[::-1] + 1) == pytest.approx(3, rel=0.01)
    assert split_half_distance(rng.normal(size=(8, 500, 3))) < 0.1


def test_ends_are_told_or_not(room_collector: RoomCollector, world: World) -> None:
    stretches = outcomes.endings(room_collector, iter(range(4)), 4)
    assert [bool(stretch.ends[-1]) for stretch in stretches] == [False, True, False, True]
    assert np.array_equal(stretches[1].frames[-1], stretches[1].frames[-2]), "an end repeats the last frame"
    scores = outcomes.score_outcomes(world, stretches)
    assert all(values.shape == (4, outcomes.LENGTH - 1) for values in scores.values())
    names = ("reward_rmse", "end_brier", "end_ece", "end_auroc", "end_recall")
    assert set(outcomes.outcome_metrics(scores)) == set(names)
    knowing = {**scores, "end": scores["is_end"].astype(float), "reward": scores["got"]}
    perfect = outcomes.outcome_metrics(knowing)
    assert [perfect[name].value for name in names] == [0, 0, 0, 1, 1]


@pytest.mark.slow
def test_parts_without_a_simulator_are_those_that_need_none(
    world: World, room_collector: RoomCollector, idm: InverseDynamicsModel
) -> None:
    sizes = TaskSizes(branch_points=2, loops=2, endings=2, long_rollouts=2, frames=8)
    given: dict[str, Any] = {"denoising_steps": 1, "seeds": itertools.count(), "seed": 0}
    assert len(prepare(world, room_collector, None, idm, sizes, **given).jobs) == 1
    sizes = replace_seconds(sizes)
    all_of_it = prepare(world, room_collector, room_collector.source, None, sizes, **given)
    names = sorted(job()[0] for job in all_of_it.jobs)
    assert names == ["drift", "ends", "idle", "loop1"]


def replace_seconds(sizes: TaskSizes) -> TaskSizes:
    """The same with loops of one second."""
    return TaskSizes(**{name: getattr(sizes, name) for name in TaskSizes.__slots__} | {"seconds": (1,)})


def test_moments_of_short_episodes_are_refused(room_collector: RoomCollector) -> None:
    from worldsim.errors import SourceError

    with pytest.raises(SourceError, match="measure less"):
        branch_points(room_collector, itertools.count(), 2, 4, 200)


def test_frames_are_resized_for_the_idm(idm: InverseDynamicsModel) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 120, 160, 3), dtype=np.uint8)
    prediction = idm.predict(resize_for_idm(frames))
    assert prediction.motion.shape == (2, 4, 3)
    assert prediction.keys.shape == (2, 4, 6)
    assert prediction.features == pytest.approx(idm.features(resize_for_idm(frames)), abs=1e-5)
