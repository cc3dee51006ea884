"""Assertions that a world follows its controls."""

from __future__ import annotations

import pytest
import torch

import worldsim
from tests.evaluation.conftest import PretendedCollector
from worldsim.engine.world import World
from worldsim.errors import DataError
from worldsim.evaluation import assert_faithful, faithful


def test_a_world_that_ignores_controls_fails(world: World, collector: PretendedCollector) -> None:
    with pytest.raises(AssertionError, match=r"must be worth 2\.00 dB over another trajectory's; they are"):
        assert_faithful(world, collector, trajectories=3, frames=6)
    assert not collector.is_closed, "a collector that was given is not ours to close"


def test_a_rollout_must_be_better_than_a_static_image(world: World, collector: PretendedCollector) -> None:
    with pytest.raises(AssertionError, match=r"must be 1\.00 dB nearer to the truth than a static image"):
        assert_faithful(world, collector, gap=-60, trajectories=3, frames=6)


@pytest.mark.slow
def test_metrics_come_back(world: World, collector: PretendedCollector) -> None:
    found = assert_faithful(world, collector, gap=-60, over_static=-60, trajectories=3, frames=6)
    assert found.gap.value == pytest.approx(found.true.value - found.shuffled.value)
    assert found.gap.low <= found.gap.value <= found.gap.high
    assert found == assert_faithful(world, collector, gap=-60, over_static=-60, trajectories=3, frames=6)


def test_the_source_is_opened_and_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PretendedCollector] = []

    def make(world: World, frames: int) -> PretendedCollector:
        made.append(PretendedCollector(world.spec, frames))
        return made[-1]

    monkeypatch.setattr(faithful, "open_collector", make)
    assert_faithful(world, gap=-60, over_static=-60, trajectories=2, frames=4)
    assert made[0].is_closed
    with pytest.raises(DataError, match="seed of a report"):
        assert_faithful(world, seed=-1)
    assert made[1].is_closed


@pytest.mark.slow
def test_the_shipped_world_follows_its_keys() -> None:
    pytest.importorskip("vizdoom")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shipped = worldsim.load("doom-maze", "cpu")
        assert_faithful(shipped, gap=2.0, over_static=2.0, trajectories=6, frames=24)
    finally:
        torch.set_num_threads(before)
