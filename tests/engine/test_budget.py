"""Budgets: how many passes fit, which sessions share a batch, and frames of chosen passes."""

from __future__ import annotations

import pytest

from tests.engine.walks import assert_same
from worldsim.engine.latency_model import LatencyModel
from worldsim.engine.waves import waves
from worldsim.engine.world import World
from worldsim.errors import ConfigError


def test_as_many_passes_are_taken_as_fit() -> None:
    model = LatencyModel((1, 2, 3))
    assert model.max_steps_within(4, 3, 0.1) == 3  # never measured: tried
    for passes in (1, 2, 3):
        model.record(4, passes, 0.1 * passes)
    assert [model.max_steps_within(4, 3, budget) for budget in (0.05, 0.1, 0.25, 9.0)] == [1, 1, 2, 3]
    assert model.max_steps_within(4, 2, 9.0) == 2
    assert model.max_steps_within(8, 3, 0.25) == 2  # more sessions take no less
    assert model.max_steps_within(1, 3, 0.25) == 3  # fewer may


def test_a_case_that_was_too_slow_is_tried_again() -> None:
    model = LatencyModel((1, 2))
    model.record(1, 1, 0.01)
    model.record(1, 2, 0.11)
    tried = [model.max_steps_within(1, 2, 0.1) for _ in range(100)]
    assert tried[0] == 1
    assert tried[-1] == 2
    model.record(1, 2, 0.05)
    assert model.max_steps_within(1, 2, 0.06) == 2  # a faster step counts at once


def test_sessions_of_the_same_passes_share_a_batch_and_the_fewest_come_first() -> None:
    passes = {"a": 3, "b": 1, "c": 3, "d": 3, "e": 1}
    assert waves("abcde", passes, 2) == [(1, ["b", "e"]), (3, ["a", "c"]), (3, ["d"])]


@pytest.mark.slow
def test_chosen_passes_give_the_same_frames_in_company_and_alone(any_world: World) -> None:
    engine, alone = any_world.engine(3, denoising_steps=2), any_world.engine(1, denoising_steps=4)
    sessions = [engine.open(seed, 0) for seed in range(3)]
    steps = engine.step(dict.fromkeys(sessions), passes={sessions[0]: 4, sessions[2]: 1})
    assert [step.denoising_steps for step in steps.values()] == [4, 2, 1]
    assert_same([alone.open(0, 0).step()], [steps[sessions[0]]])
    with pytest.raises(ConfigError, match="must be one of"):
        sessions[1].step(denoising_steps=3)
    assert sessions[1].index == steps[sessions[1]].index
