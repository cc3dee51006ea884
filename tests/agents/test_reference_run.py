"""The real engine follows the dream: from the same moment, under the same controls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.agents.fake_engine import FakeSource, fake_world, space
from worldsim.agents.human.panes import panes, psnr
from worldsim.agents.human.player import WorldPlayer
from worldsim.agents.human.reference_run import REMEMBERED, ReferenceRun
from worldsim.controls import Control
from worldsim.errors import SourceError

KEYS = [Control(keys={"forward"}), Control(keys={"turn_left"}, yaw=0.1), Control(keys={"strafe_right"})]


def settled(player: WorldPlayer) -> WorldPlayer:
    while player.waiting:
        player.tick(Control())
    return player


def same(player: WorldPlayer) -> bool:
    assert player.reference is not None
    return np.array_equal(player.reference.frame, player.branch.session.frame)


def test_both_see_the_same_from_wherever_the_comparison_begins(player: WorldPlayer) -> None:
    for control in KEYS * 3:
        player.tick(control)
    player.do("compare")
    assert same(settled(player))
    for control in KEYS:
        assert player.tick(control)
        assert same(player)


def test_the_dream_waits_until_the_real_engine_has_caught_up(player: WorldPlayer) -> None:
    clock = iter(range(10**6))
    player._open_reference = lambda: ReferenceRun(
        FakeSource(player.world.spec), clock=lambda: 0.01 * next(clock)
    )
    for _ in range(12):
        player.tick(KEYS[0])
    player.do("compare")
    waits = 0
    while player.waiting:
        assert not player.tick(KEYS[0])
        assert len(player.branch.trajectory.controls) == 12
        waits += 1
    assert waits > 3
    assert same(player)


@pytest.mark.parametrize("command", ["rewind", "restore", "focus", "next_start", "restart"])
def test_the_real_engine_comes_along_wherever_the_dream_jumps(player: WorldPlayer, command: str) -> None:
    player.do("compare")
    settled(player)
    player.do("save")
    for control in KEYS * 2:
        player.tick(control)
    if command == "focus":
        player.do("fork")
        for _ in range(9):
            player.tick(Control())
    if command == "rewind":
        player.rewind(2)
    else:
        player.do(command)
    assert same(settled(player))
    player.tick(KEYS[0])
    assert same(player)


def test_while_rewinding_the_frames_that_are_remembered_are_shown(player: WorldPlayer) -> None:
    player.do("compare")
    settled(player)
    for control in KEYS:
        player.tick(control)
    player.rewind(2)
    assert same(player)
    assert len(player.reference.poses) == 2  # type: ignore[union-attr]
    assert REMEMBERED > 100


def test_the_second_press_ends_it(player: WorldPlayer) -> None:
    player.do("compare")
    source = player.reference._source  # type: ignore[union-attr]
    player.do("compare")
    assert player.reference is None
    assert source.closed  # type: ignore[attr-defined]


def test_a_start_that_cannot_be_reached_is_told(player: WorldPlayer) -> None:
    player.world.starts[0] = SimpleNamespace(seed=None, action_prefix=None)
    player.do("compare")
    assert player.reference is None
    assert "another start" in player.notices[-1].text


class Short(FakeSource):
    """Its episodes end after two frames."""

    def reset(self, seed: int) -> SimpleNamespace:
        self.left = 2
        return super().reset(seed)

    def step(self, control: Control) -> SimpleNamespace:
        self.left -= 1
        assert self.left >= 0, "stepped after its end"
        seen = super().step(control)
        seen.truncated = self.left == 0
        return seen


def test_after_the_real_episode_ends_its_last_frame_stays() -> None:
    world = fake_world((6, 8))
    twin = ReferenceRun(Short(world.spec))
    start: Any = SimpleNamespace(seed=0, action_prefix=np.zeros((0, 7), np.float32))
    twin.replay(start, [])
    for _ in range(2):
        twin.advance(KEYS[0])
    assert twin.over
    last = twin.frame
    twin.advance(KEYS[0])
    np.testing.assert_array_equal(twin.frame, last)
    assert len(twin.poses) == 4


def test_an_engine_that_breaks_ends_the_comparison_only(player: WorldPlayer) -> None:
    class Broken(FakeSource):
        def reset(self, seed: int) -> SimpleNamespace:
            raise SourceError("Doom has to start", "signal 11", "try again")

    player._open_reference = lambda: ReferenceRun(Broken(player.world.spec))
    player.do("compare")
    assert player.reference is None
    assert "signal 11" in player.notices[-1].text
    assert player.tick(KEYS[0])


def test_the_prefix_is_played_but_not_shown() -> None:
    prefix = np.stack([space().vector(control) for control in KEYS])
    twin = ReferenceRun(FakeSource(fake_world((6, 8)).spec))
    twin.replay(SimpleNamespace(seed=0, action_prefix=prefix), [])  # type: ignore[arg-type]
    assert twin.frame is None
    twin.catch_up()
    assert len(twin.poses) == 1
    assert twin.behind == 0


def test_tiles_say_what_they_are(player: WorldPlayer) -> None:
    assert [(pane.title, pane.remark) for pane in panes(player)] == [("Dream", "you")]
    player.do("compare")
    settled(player)
    player.do("fork")
    player.do("driver")
    shown = [(pane.title, pane.remark) for pane in panes(player)]
    assert shown == [("Future A", "explorer"), ("Future B", "explorer"), ("Engine", "identical")]


def test_psnr() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))
    assert psnr(grey, grey) == 99.0
