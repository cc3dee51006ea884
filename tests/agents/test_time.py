"""Pacing, timings and hands, with a clock that the test moves."""

from __future__ import annotations

import pytest

from tests.agents.fake_engine import fake_world
from worldsim.agents.human.inputs import Inputs
from worldsim.agents.human.keymap import default_keymap
from worldsim.agents.human.pacing import Pacer
from worldsim.agents.human.stats import Stats
from worldsim.envs.sources.doom import DOOM_KEYS


def test_a_pacer_keeps_its_beat_although_frames_come_late() -> None:
    pacer, now, beats = Pacer(10.0), 100.0, []
    for late in (0.0, 0.03, 0.0, 0.07, 0.0, 0.0):
        now += pacer.wait(now) + late
        beats.append(now)
        pacer.beat(now)
    assert beats[-1] - beats[0] == pytest.approx(0.5)


def test_a_long_hold_up_is_not_rushed_after() -> None:
    pacer = Pacer(10.0)
    pacer.beat(0.0)
    pacer.beat(5.0)
    assert pacer.wait(5.0) == pytest.approx(0.1)


def test_without_a_pace_a_frame_is_always_due() -> None:
    pacer = Pacer(0.0)
    pacer.beat(1.0)
    assert pacer.wait(1.0) == 0.0


def test_stats_tell_the_engine_from_the_loop() -> None:
    now = [0.0]
    stats = Stats(clock=lambda: now[0])
    for ms in (10, 10, 10, 30):
        with stats.step():
            now[0] += ms / 1000
        now[0] += 0.04
    assert stats.frames == 4
    assert stats.percentile(50) == pytest.approx(10.0)
    assert stats.percentile(99) > 25
    assert stats.engine_fps == pytest.approx(4 / 0.06)
    assert stats.loop_fps == pytest.approx(3 / (0.05 + 0.05 + 0.07))
    stats.pause()
    assert stats.loop_fps == 0.0


def test_a_step_that_fails_is_not_counted() -> None:
    stats = Stats()
    with pytest.raises(RuntimeError), stats.step():
        raise RuntimeError
    assert stats.frames == 0
    assert stats.percentile(50) == stats.engine_fps == 0.0


def test_a_quick_flick_of_the_mouse_is_spread_over_a_few_frames() -> None:
    inputs, keymap, space = Inputs(), default_keymap(DOOM_KEYS), fake_world((6, 8)).spec.control_space
    inputs.move(200)
    yaws = [inputs.control(keymap, space).yaw for _ in range(4)]
    assert yaws == pytest.approx([0.3, 0.3, 0.2, 0.0])
    inputs.move(-(10**6))
    assert sum(inputs.control(keymap, space).yaw for _ in range(20)) == pytest.approx(-1.2)
    inputs.move(500)
    inputs.let_go()
    assert inputs.control(keymap, space).yaw == 0.0
