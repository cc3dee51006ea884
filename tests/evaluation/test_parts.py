"""Keys, loops, long walks, ends: each against a pretended environment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.evaluation.conftest import StagedPlayer
from worldsim.controls import DOOM_KEYS, Control
from worldsim.engine.world import World
from worldsim.evaluation import keys, loops, outcomes
from worldsim.evaluation.drift import (
    at_rest,
    frechet,
    idle_figures,
    idle_play,
    long_walk,
    play_figures,
    random_play,
    real_walks,
    spread,
)
from worldsim.evaluation.judge import Judge, planar_motion, small
from worldsim.evaluation.parts import Sizes, prepare
from worldsim.evaluation.stage import Moment, act, go_to, moments


def test_a_moment_can_be_gone_back_to(staged: StagedPlayer, found: list[Moment]) -> None:
    for moment in found:
        context = moment.context
        assert np.array_equal(go_to(staged.source, moment).frame, context.frames[-1])
        assert moment.future.shape == (20, staged.spec.control_space.size)
        assert context.prefix is not None
        assert np.array_equal(context.prefix[-3:], context.controls[1:])


def test_the_environment_goes_on_from_a_moment_as_its_episode_did(
    staged: StagedPlayer, found: list[Moment]
) -> None:
    moment, space = found[1], staged.spec.control_space
    run = act(staged.source, moment, map(space.from_vector, moment.future))
    assert run is not None
    episode = staged.play(1)
    at = len(moment.context.prefix)  # type: ignore[arg-type]
    assert np.array_equal(run.frames, episode.frames[at : at + 21])
    assert np.array_equal(run.controls[1:], moment.future)


def pulls_of(staged: StagedPlayer, found: list[Moment]) -> dict[str, np.ndarray]:
    """The environment's motions under every choice, from its poses."""
    held = keys.choices(DOOM_KEYS)
    motion = []
    for moment in found:
        runs = [act(staged.source, moment, [Control([key] if key else ())] * keys.KEY_FRAMES) for key in held]
        motion.append([planar_motion(run.poses) for run in runs if run and run.poses is not None])
    return {"motion": np.array(motion), "true": np.array(motion)}


def test_who_moves_as_the_environment_does_obeys(staged: StagedPlayer, found: list[Moment]) -> None:
    real = pulls_of(staged, found)
    figures = keys.key_figures(real["motion"], real, DOOM_KEYS)
    assert figures["key_pairs"].value == figures["key_pairs"].ceiling == 1
    assert figures["key_latency"].value == 1
    names, table = keys.confusion(real["motion"], real, DOOM_KEYS)
    assert names == ("none", *DOOM_KEYS)
    assert np.array_equal(table, np.diag(np.diag(table)))
    assert (np.diag(table) > 0).all()


def test_who_mixes_up_left_and_right_does_not(staged: StagedPlayer, found: list[Moment]) -> None:
    real = pulls_of(staged, found)
    swapped = list(range(1 + len(DOOM_KEYS)))
    left, right = 1 + DOOM_KEYS.index("turn_left"), 1 + DOOM_KEYS.index("turn_right")
    swapped[left], swapped[right] = right, left
    figures = keys.key_figures(real["motion"][:, swapped], real, DOOM_KEYS)
    assert figures["key_pairs"].value == pytest.approx(2 / 3, abs=0.12)
    still = keys.key_figures(np.zeros_like(real["motion"]), real, DOOM_KEYS)
    assert still["key_pairs"].value == 0
    assert still["key_latency"].value == pytest.approx(keys.KEY_FRAMES + 1)


def test_walls_count_for_nothing(staged: StagedPlayer, found: list[Moment]) -> None:
    real = pulls_of(staged, found)
    real["true"] = np.zeros_like(real["true"])
    assert keys.key_figures(real["motion"], real, DOOM_KEYS) == {}


def test_loops_come_back(staged: StagedPlayer, found: list[Moment], world: World) -> None:
    ways = loops.real_loops(staged.source, found, 30)
    assert len(ways) == 3
    for way in ways:
        assert way.run.poses is not None
        first, again = way.run.poses[way.first], way.run.poses[way.again]
        assert np.linalg.norm(first[:, :3, 3] - again[:, :3, 3], axis=-1).max() < 0.12
        assert np.abs(planar_motion(np.stack([first, again], 1))[..., 2]).max() < 0.02
    scores = loops.score_loops(world, ways, 1, 0)
    assert all(values.shape == (3, 4) and np.isfinite(values).all() for values in scores.values())
    assert (scores["real_self"][0] > 35).all()
    figures = loops.loop_figures(scores, 8, 30.0)
    assert set(figures) == {"loop8_psnr", "loop8_poseless", "loop8_self", "loop8_poseless_self"}


def test_random_play_holds_its_actions(world: World) -> None:
    space = world.spec.control_space
    rows = random_play(space, np.random.default_rng(0), 200)
    assert rows.shape == (200, space.size)
    holds = [len(list(group)) for _, group in itertools.groupby(map(tuple, rows))]
    assert np.mean(holds) > 4


def test_long_walks(staged: StagedPlayer, found: list[Moment], world: World, judge: Judge) -> None:
    space = world.spec.control_space
    controls = np.stack([random_play(space, np.random.default_rng(i), 20) for i in range(3)])
    rest = np.stack([at_rest(staged.source, moment) for moment in found])
    dream = long_walk(world, judge, found, controls, rest, steps=1, seed=0)
    assert dream["motion"].shape == (3, 20)
    assert dream["features"].shape == (3, 4, 4)
    real = real_walks(staged.source, judge, found, 20, 0)
    figures = play_figures(dream, real)
    assert set(figures) == {"drift_ratio", "drift_sharp", "drift_motion"}
    same = play_figures(real, real)
    assert same["drift_motion"].value > 0
    idle = long_walk(world, None, found[:2], idle_play(space, 2, 10), rest[:2], steps=1, seed=0)
    assert set(idle_figures(idle, 10.0, 30.0)) == {"idle_psnr", "idle_motion"}


def test_the_frechet_distance_is_that_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40_000, 3))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, 2 * a + (3, 0, 0)) == pytest.approx(9 + 3, rel=0.03)
    assert frechet(a, a[::-1] + 1) == pytest.approx(3, rel=0.01)
    assert spread(rng.normal(size=(8, 500, 3))) < 0.1


def test_ends_are_told_or_not(staged: StagedPlayer, world: World) -> None:
    stretches = outcomes.endings(staged, iter(range(4)), 4)
    assert [bool(stretch.ends[-1]) for stretch in stretches] == [False, True, False, True]
    assert np.array_equal(stretches[1].frames[-1], stretches[1].frames[-2]), "an end repeats the last frame"
    scores = outcomes.score_outcomes(world, stretches)
    assert all(values.shape == (4, outcomes.LENGTH - 1) for values in scores.values())
    names = ("reward_rmse", "end_brier", "end_ece", "end_auroc", "end_recall")
    assert set(outcomes.outcome_figures(scores)) == set(names)
    knowing = {**scores, "end": scores["is_end"].astype(float), "reward": scores["got"]}
    perfect = outcomes.outcome_figures(knowing)
    assert [perfect[name].value for name in names] == [0, 0, 0, 1, 1]


def test_parts_without_a_stage_are_those_that_need_none(
    world: World, staged: StagedPlayer, judge: Judge
) -> None:
    sizes = Sizes(moments=2, loops=2, endings=2, walks=2, frames=8)
    given = {"steps": 1, "seeds": itertools.count(), "seed": 0}
    assert len(prepare(world, staged, None, judge, sizes, **given).jobs) == 1  # type: ignore[arg-type]
    all_of_it = prepare(world, staged, staged.source, None, replace_seconds(sizes), **given)  # type: ignore[arg-type]
    names = sorted(job()[0] for job in all_of_it.jobs)
    assert names == ["ends", "idle", "loop1", "play"]


def replace_seconds(sizes: Sizes) -> Sizes:
    """The same with loops of one second."""
    return Sizes(**{name: getattr(sizes, name) for name in Sizes.__slots__} | {"seconds": (1,)})


def test_moments_of_short_episodes_are_refused(staged: StagedPlayer) -> None:
    from worldsim.errors import SourceError

    with pytest.raises(SourceError, match="measure less"):
        moments(staged, itertools.count(), 2, 4, 200)


def test_small_frames_are_those_that_the_judge_reads(judge: Judge) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 120, 160, 3), dtype=np.uint8)
    verdict = judge.read(small(frames))
    assert verdict.motion.shape == (2, 4, 3)
    assert verdict.keys.shape == (2, 4, 6)
    assert verdict.features == pytest.approx(judge.features(small(frames)), abs=1e-5)
