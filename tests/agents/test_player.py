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
from worldsim.agents.human.compare import Twin
from worldsim.agents.human.player import Player
from worldsim.controls import DOOM_KEYS, Control
from worldsim.errors import DependencyError, install

FORWARD = Control(keys={"forward"})
Make = Callable[..., Player]


def walk(player: Player, frames: int, control: Control = FORWARD) -> None:
    for _ in range(frames):
        assert player.tick(control)


def said(player: Player) -> str:
    return player.notices[-1].text


def test_time_goes_on_and_stops(player: Player) -> None:
    walk(player, 3)
    player.do("pause")
    assert not player.tick(FORWARD)
    player.do("step", FORWARD)
    assert player.lane.session.index == 4
    assert player.paused
    player.do("pause")
    assert player.tick(Control())
    assert player.lane.history.controls == [FORWARD] * 4 + [Control()]


def test_rewinding_brings_the_frames_back(player: Player) -> None:
    walk(player, 2)
    before = player.lane.session.frame
    walk(player, 5, Control(keys={"turn_left"}))
    assert player.rewind(5)
    np.testing.assert_array_equal(player.lane.session.frame, before)
    assert len(player.lane.history.places) == 3
    assert player.rewind(99)
    assert player.lane.session.index == 0
    assert not player.rewind()


def test_the_past_ends_where_the_engine_remembers_no_more(make_player: Make) -> None:
    player = make_player(engine={"history": 4})
    walk(player, 10)
    assert player.rewind(8)
    assert player.lane.session.index == len(player.lane.history.controls) == 7
    assert not player.rewind(1)
    assert "No further back" in said(player)


def test_a_saved_moment_comes_back_in_its_own_slot(player: Player) -> None:
    walk(player, 3)
    player.do("slot_2")
    player.do("save")
    saved = player.lane.session.frame
    walk(player, 4)
    player.do("next_start")
    player.do("restore")
    np.testing.assert_array_equal(player.lane.session.frame, saved)
    assert len(player.lane.history.controls) == 3
    assert player.lane.start == 0
    player.do("slot_1")
    player.do("restore")
    assert "empty" in said(player)


def test_a_moment_can_be_restored_twice(player: Player) -> None:
    player.do("save")
    for _ in range(2):
        walk(player, 4)
        player.do("restore")
        assert player.lane.session.index == len(player.lane.history.controls) == 0


def test_two_futures_part_and_one_is_kept(player: Player) -> None:
    walk(player, 2)
    player.do("fork")
    walk(player, 40, Control())
    a, b = player.lanes
    assert a.history.controls[2:] == [Control()] * 40
    assert b.history.controls[2:] != [Control()] * 40
    player.do("focus")
    player.do("fork")
    assert player.lanes == [b]
    assert player.engine.sessions == {b.session}


def test_futures_are_rewound_together(player: Player) -> None:
    walk(player, 2)
    player.do("fork")
    walk(player, 3)
    player.rewind(3)
    assert [lane.session.index for lane in player.lanes] == [2, 2]


def test_focus_needs_two_futures(player: Player) -> None:
    player.do("focus")
    assert "one future" in said(player)


def test_starts_and_seeds(player: Player) -> None:
    player.do("previous_start")
    assert player.lane.start == len(STARTS) - 1
    player.do("next_start")
    player.do("next_start")
    assert player.lane.start == 1
    walk(player, 3)
    player.do("restart")
    assert (player.lane.start, player.lane.session.index) == (1, 0)
    player.do("reseed")
    assert player.lane.session.seed == player.seed == 1


def test_steps_stay_within_what_there_is(player: Player) -> None:
    seen = []
    for command in ("more_steps", "more_steps", "fewer_steps", "fewer_steps", "fewer_steps"):
        player.do(command)
        seen.append(player.engine.steps)
    assert seen == [4, 4, 2, 1, 1]


def test_the_hand_over_goes_round(player: Player) -> None:
    drivers = []
    for _ in range(3):
        player.do("driver")
        drivers.append(player.driver)
    assert drivers == ["scripted", "random", "human"]
    player.do("driver")
    walk(player, 20, Control())
    assert any(control.keys for control in player.lane.history.controls)


def test_the_end_of_an_episode_stops_a_person_but_not_an_agent(make_player: Make) -> None:
    player = make_player(engine={"ends_at": 3})
    walk(player, 3)
    assert player.paused
    assert "episode ends" in said(player)
    agent = make_player(engine={"ends_at": 3}, driver="scripted")
    walk(agent, 4)
    assert agent.lane.start == 1


def test_a_full_engine_is_told(make_player: Make) -> None:
    player = make_player(engine={"slots": 1})
    for command in ("fork", "next_start", "reseed"):
        player.do(command)
        assert "slot" in said(player)
        assert len(player.lanes) == 1
    assert player.tick(FORWARD)


def test_an_engine_that_fails_pauses(player: Player) -> None:
    assert not player.tick(Control(keys={"fly"}))
    assert player.paused
    assert "fly" in said(player)


def test_closing_closes_everything(player: Player) -> None:
    player.do("compare")
    source = player.twin._source  # type: ignore[union-attr]
    player.do("fork")
    player.close()
    player.close()
    assert player.engine.sessions == set()
    assert source.closed  # type: ignore[attr-defined]


def test_a_missing_engine_is_told_with_its_remedy(make_player: Make) -> None:
    def missing() -> Twin:
        raise DependencyError("Doom is played by vizdoom", None, install("doom"))

    player = make_player(open_twin=missing)
    player.do("compare")
    assert player.twin is None
    assert install("doom") in said(player)
    bare = make_player(open_twin=None)
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
        self.engine.history = 12
        self.player = Player(self.world, self.engine, open_twin=lambda: Twin(FakeSource(self.world.spec)))
        self.saved: dict[int, np.ndarray] = {}

    @rule(keys=st.sets(st.sampled_from(DOOM_KEYS), max_size=3), look=st.floats(-0.4, 0.4))
    def tick(self, keys: set[str], look: float) -> None:
        before = self.player.lane.session.index
        moved = self.player.tick(Control(keys=keys, look=look))
        assert self.player.lane.session.index == before + moved

    @rule(frames=st.integers(1, 6))
    def rewind(self, frames: int) -> None:
        self.player.rewind(frames)

    @rule(command=st.sampled_from(COMMANDS))
    def command(self, command: str) -> None:
        self.player.do(command, FORWARD)

    @rule()
    def save(self) -> None:
        self.player.do("save")
        self.saved[self.player.slot] = self.player.lane.session.frame

    @precondition(lambda self: self.player.slot in self.saved)
    @rule()
    def restore(self) -> None:
        self.player.do("restore")
        np.testing.assert_array_equal(self.player.lane.session.frame, self.saved[self.player.slot])

    @precondition(
        lambda self: not self.player.waiting and self.player.twin is not None and self.player.seed == 0
    )
    @rule()
    def both_see_the_same(self) -> None:
        twin = self.player.twin
        assert twin is not None
        if self.player.lane.session.seed == 0:
            np.testing.assert_array_equal(twin.frame, self.player.lane.session.frame)
        assert len(twin.places) == len(self.player.lane.history.places)

    @invariant()
    def the_books_fit_the_sessions(self) -> None:
        player = self.player
        assert self.engine.sessions == {lane.session for lane in player.lanes}
        assert player.lane in player.lanes
        for lane in player.lanes:
            walked = len(lane.history.controls)
            assert walked == lane.session.index
            assert (
                len(lane.history.places)
                == len(lane.history.rewards)
                == len(lane.history.drifts)
                == walked + 1
            )
            x, y, yaw = lane.history.places[-1] or (0.0, 0.0, 0.0)
            assert (x, y) == pytest.approx((lane.session.state.x, lane.session.state.y))
            assert np.cos(yaw) == pytest.approx(np.cos(lane.session.state.yaw), abs=1e-6)

    def teardown(self) -> None:
        if hasattr(self, "player"):
            self.player.close()
            assert self.engine.sessions == set()


TestAnything: Any = Anything.TestCase
TestAnything.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
