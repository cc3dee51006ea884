"""Flood control: how many malformed messages a turn reads, and the pause after them."""

from __future__ import annotations

from worldsim.bridge.server.flood_control import FloodControl


def test_a_turn_without_malformed_messages_has_no_pause() -> None:
    flood = FloodControl()
    flood.start_socket()
    assert not flood.exhausted
    assert flood.end_turn(1.0) == 0


def test_each_socket_has_four_malformed_messages_a_turn() -> None:
    flood = FloodControl()
    for _ in range(2):
        flood.start_socket()
        for _ in range(4):
            assert not flood.exhausted
            flood.count()
        assert flood.exhausted


def test_the_pause_is_twice_the_work_within_bounds() -> None:
    flood = FloodControl()
    for worked, pause in ((0.0001, 0.001), (0.002, 0.004), (1.0, 0.005)):
        flood.start_socket()
        flood.count()
        assert flood.end_turn(worked) == pause
    assert flood.end_turn(1.0) == 0
