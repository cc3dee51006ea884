"""The player obeys every command in every order, and its bookkeeping always fits its sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.agents.fake_engine import STARTS, FakeSource, fake_world
from worldsim.agents.human.player import WorldPlayer
from worldsim.agents.human.reference_run import ReferenceRun
from worldsim.controls import Control
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import DependencyError, install

FORWARD = Control(keys={"forward"})
Make = Callable[..., WorldPlayer]


def walk(player: WorldPlayer, frames: int, control: Control = FORWARD) -> None:
    for _ in range(frames):
        assert player.tick(control)


def said(player: WorldPlayer) -> str:
    return player.notices[-1].text


def test_time_goes_on_and_stops(player: WorldPlayer) -> None:
    walk(player, 3)
    player.do("pause")
    assert not player.tick(FORWARD)
    player.do("step", FORWARD)
    assert player.branch.session.index == 4
    assert player.paused
    player.do("pause")
    assert player.tick(Control())
    assert player.branch.trajectory.controls == [FORWARD] * 4 + [Control()]


def test_frames_are_coarse_where_they_would_be_late(player: WorldPlayer) -> None:
    walk(player, 1)
    player.frame_seconds = 0.1
    walk(player, 1)
    assert player.drawn_steps == player.engine.denoising_steps  # fewer steps make no coarse frame here
    player.world.draws_coarse_frames = True  # type: ignore[misc]
    walk(player, 1)
    assert player.drawn_steps == 1
    player.frame_seconds = None
    walk(player, 1)
    assert player.drawn_steps == player.engine.denoising_steps


def test_rewinding_brings_the_frames_back(player: WorldPlayer) -> None:
    walk(player, 2)
    before = player.branch.session.frame
    walk(player, 5, Control(keys={"turn_left"}))
    assert player.rewind(5)
    np.testing.assert_array_equal(player.branch.session.frame, before)
    assert len(player.branch.trajectory.poses) == 3
    assert player.rewind(99)
    assert player.branch.session.index == 0
    assert not player.rewind()


def test_the_past_ends_where_the_engine_remembers_no_more(make_player: Make) -> None:
    player = make_player(engine={"rewind_frames": 4})
    walk(player, 10)
    assert player.rewind(8)
    assert player.branch.session.index == len(player.branch.trajectory.controls) == 7
    assert not player.rewind(1)
    assert "No further back" in said(player)


def test_a_saved_moment_comes_back_in_its_own_slot(player: WorldPlayer) -> None:
    walk(player, 3)
    player.do("slot_2")
    player.do("save")
    saved = player.branch.session.frame
    walk(player, 4)
    player.do("next_start")
    player.do("restore")
    np.testing.assert_array_equal(player.branch.session.frame, saved)
    assert len(player.branch.trajectory.controls) == 3
    assert player.branch.start == 0
    player.do("slot_1")
    player.do("restore")
    assert "empty" in said(player)


def test_a_moment_can_be_restored_twice(player: WorldPlayer) -> None:
    player.do("save")
    for _ in range(2):
        walk(player, 4)
        player.do("restore")
        assert player.branch.session.index == len(player.branch.trajectory.controls) == 0


def test_two_futures_part_and_one_is_kept(player: WorldPlayer) -> None:
    walk(player, 2)
    player.do("fork")
    walk(player, 40, Control())
    a, b = player.branches
    assert a.trajectory.controls[2:] == [Control()] * 40
    assert b.trajectory.controls[2:] != [Control()] * 40
    player.do("focus")
    player.do("fork")
    assert player.branches == [b]
    assert player.engine.sessions == {b.session}


def test_futures_are_rewound_together(player: WorldPlayer) -> None:
    walk(player, 2)
    player.do("fork")
    walk(player, 3)
    player.rewind(3)
    assert [branch.session.index for branch in player.branches] == [2, 2]


def test_focus_needs_two_futures(player: WorldPlayer) -> None:
    player.do("focus")
    assert "one future" in said(player)


def test_starts_and_seeds(player: WorldPlayer) -> None:
    player.do("previous_start")
    assert player.branch.start == len(STARTS) - 1
    player.do("next_start")
    player.do("next_start")
    assert player.branch.start == 1
    walk(player, 3)
    player.do("restart")
    assert (player.branch.start, player.branch.session.index) == (1, 0)
    player.do("reseed")
    assert player.branch.session.seed == player.seed == 1


def test_steps_stay_within_what_there_is(player: WorldPlayer) -> None:
    seen = []
    for command in ("more_steps", "more_steps", "fewer_steps", "fewer_steps", "fewer_steps"):
        player.do(command)
        seen.append(player.engine.denoising_steps)
    assert seen == [4, 4, 2, 1, 1]


def test_the_temperature_of_all_futures_is_one_and_stays_when_time_goes_back(player: WorldPlayer) -> None:
    player.do("fork")
    player.do("hotter")
    assert [branch.session.temperature for branch in player.branches] == [1.1, 1.1]
    walk(player, 3)
    for _ in range(20):
        player.do("cooler")
    assert player.temperature == 0.0
    player.rewind(2)
    assert [branch.session.temperature for branch in player.branches] == [0.0, 0.0]
    player.do("restart")
    assert player.branch.session.temperature == 0.0


def test_the_hand_over_goes_round(player: WorldPlayer) -> None:
    drivers = []
    for _ in range(3):
        player.do("driver")
        drivers.append(player.driver)
    assert drivers == ["scripted", "random", "human"]
    player.do("driver")
    walk(player, 20, Control())
    assert any(control.keys for control in player.branch.trajectory.controls)


def test_the_end_of_an_episode_stops_a_person_but_not_an_agent(make_player: Make) -> None:
    player = make_player(engine={"ends_at": 3})
    walk(player, 3)
    assert player.paused
    assert "episode ends" in said(player)
    agent = make_player(engine={"ends_at": 3}, driver="scripted")
    walk(agent, 4)
    assert agent.branch.start == 1


def test_a_full_engine_is_told(make_player: Make) -> None:
    player = make_player(engine={"slots": 1})
    for command in ("fork", "next_start", "reseed"):
        player.do(command)
        assert "slot" in said(player)
        assert len(player.branches) == 1
    assert player.tick(FORWARD)


def test_an_engine_that_fails_pauses(player: WorldPlayer) -> None:
    assert not player.tick(Control(keys={"fly"}))
    assert player.paused
    assert "fly" in said(player)


def test_closing_closes_everything(player: WorldPlayer) -> None:
    player.do("compare")
    source = player.reference._source  # type: ignore[union-attr]
    player.do("fork")
    player.close()
    player.close()
    assert player.engine.sessions == set()
    assert source.closed  # type: ignore[attr-defined]


def test_a_missing_engine_is_told_with_its_remedy(make_player: Make) -> None:
    def missing() -> ReferenceRun:
        raise DependencyError("Doom is played by vizdoom", None, install("doom"))

    player = make_player(open_reference=missing)
    player.do("compare")
    assert player.reference is None
    assert install("doom") in said(player)
    bare = make_player(open_reference=None)
    bare.do("compare")
    assert "no real engine" in said(bare)


COMMANDS = (
    *("pause", "step", "fork", "focus", "next_start", "previous_start", "restart", "reseed", "compare"),
    *("driver", "more_steps", "fewer_steps", "slot_1", "slot_2", "slot_5"),
)


class Anything(RuleBasedStateMachine):
    """Whatever a person does, in whatever order."""

    @initialize()
    def begin(self) -> None:
        self.world = fake_world((6, 8))
        self.engine = self.world.engine(slots=4)
        self.engine.rewind_frames = 12
        self.player = WorldPlayer(
            self.world, self.engine, open_reference=lambda: ReferenceRun(FakeSource(self.world.spec))
        )
        self.saved: dict[int, np.ndarray] = {}

    @rule(keys=st.sets(st.sampled_from(DOOM_KEYS), max_size=3), yaw=st.floats(-0.4, 0.4))
    def tick(self, keys: set[str], yaw: float) -> None:
        before = self.player.branch.session.index
        moved = self.player.tick(Control(keys=keys, yaw=yaw))
        assert self.player.branch.session.index == before + moved

    @rule(frames=st.integers(1, 6))
    def rewind(self, frames: int) -> None:
        self.player.rewind(frames)

    @rule(command=st.sampled_from(COMMANDS))
    def command(self, command: str) -> None:
        self.player.do(command, FORWARD)

    @rule()
    def save(self) -> None:
        self.player.do("save")
        self.saved[self.player.slot] = self.player.branch.session.frame

    @precondition(lambda self: self.player.slot in self.saved)
    @rule()
    def restore(self) -> None:
        self.player.do("restore")
        np.testing.assert_array_equal(self.player.branch.session.frame, self.saved[self.player.slot])

    @precondition(
        lambda self: not self.player.waiting and self.player.reference is not None and self.player.seed == 0
    )
    @rule()
    def both_see_the_same(self) -> None:
        twin = self.player.reference
        assert twin is not None
        if self.player.branch.session.seed == 0:
            np.testing.assert_array_equal(twin.frame, self.player.branch.session.frame)
        assert len(twin.poses) == len(self.player.branch.trajectory.poses)

    @invariant()
    def the_books_fit_the_sessions(self) -> None:
        player = self.player
        assert self.engine.sessions == {branch.session for branch in player.branches}
        assert player.branch in player.branches
        for branch in player.branches:
            walked = len(branch.trajectory.controls)
            assert walked == branch.session.index
            assert (
                len(branch.trajectory.poses)
                == len(branch.trajectory.rewards)
                == len(branch.trajectory.uncertainties)
                == walked + 1
            )
            x, y, yaw = branch.trajectory.poses[-1] or (0.0, 0.0, 0.0)
            assert (x, y) == pytest.approx((branch.session.state.x, branch.session.state.y))
            assert np.cos(yaw) == pytest.approx(np.cos(branch.session.state.yaw), abs=1e-6)

    def teardown(self) -> None:
        if hasattr(self, "player"):
            self.player.close()
            assert self.engine.sessions == set()


TestAnything: Any = Anything.TestCase
TestAnything.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
