from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.evaluation.conftest import PretendedCollector
from worldsim.data.recorder import episode_seed
from worldsim.errors import DataError, SourceError
from worldsim.evaluation.trajectories import REPORTING_SEEDS, check_seeds, collect, reporting_seeds


def test_reporting_seeds_stay_clear_of_those_of_recordings() -> None:
    recorded = (episode_seed(seed, number) for seed in (0, 1, 3998) for number in (0, 999_999))
    check_seeds(recorded)
    assert REPORTING_SEEDS[-1] < 2**32, "a Doom seed has 32 bits"


def test_a_start_from_a_reporting_seed_is_refused() -> None:
    check_seeds([None, 0, 20])
    with pytest.raises(DataError, match="reported on; got \\[4000000007\\]"):
        check_seeds([20, 4_000_000_007])


def test_runs_share_no_seed() -> None:
    first, second = (set(itertools.islice(reporting_seeds(run), 10_000)) for run in (0, 1))
    assert len(first) == 10_000
    assert not first & second
    with pytest.raises(DataError, match=r"0\.\.19999"):
        reporting_seeds(20_000)


def test_stretches_have_what_led_into_each_frame(collector: PretendedCollector) -> None:
    true = collect(collector, iter([0, 1]), 2, 40)
    assert true.frames.shape == (2, 40, *collector.spec.size, 3)
    assert true.poses is not None
    for i, seed in enumerate(true.seeds):
        moved = true.poses[i, 1:, 0, 3] - true.poses[i, :-1, 0, 3]
        assert np.array_equal(moved > 0.005, true.controls[i, 1:, 0] > 0.5)
        episode = collector.play(seed)
        assert (episode.poses == true.poses[i, 0]).all((1, 2)).any()
    assert len(np.unique(true.frames[:, 0])) > 1


def test_short_episodes_are_passed_over(collector: PretendedCollector) -> None:
    true = collect(collector, iter(range(100)), 3, 40)
    assert true.seeds == (0, 1, 3)
    assert collector.played == [0, 1, 2, 3]


def test_a_stretch_begins_somewhere_in_its_episode(collector: PretendedCollector) -> None:
    again = collect(collector, iter([0, 1, 3, 4]), 4, 40)
    begun = [
        int((collector.play(seed).poses == pose[0]).all((1, 2)).argmax())
        for seed, pose in zip(again.seeds, again.poses, strict=True)
    ]
    assert len(set(begun)) > 1
    assert np.array_equal(collect(collector, iter([0, 1, 3, 4]), 4, 40).frames, again.frames)


def test_a_source_of_short_episodes_is_named(collector: PretendedCollector) -> None:
    with pytest.raises(SourceError, match="at least 91 frames; got '0 of 16'; choose a shorter --horizon"):
        collect(collector, itertools.count(), 2, 91)


def test_a_context_is_the_beginning(collector: PretendedCollector) -> None:
    true = collect(collector, iter([0, 1]), 2, 40)
    context = true.context(1, 4)
    assert np.array_equal(context.frames, true.frames[1, :4])
    assert context.seed == 1
