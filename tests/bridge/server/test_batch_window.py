from __future__ import annotations

from worldsim.bridge.server.batch_window import BatchWindow


def window(seconds: float = 1.0) -> BatchWindow:
    made = BatchWindow(share=0.2, limit=0.5)
    made.record_batch(seconds)
    return made


def test_a_session_that_was_answered_is_waited_for_until_it_asks() -> None:
    waits = window()
    waits.record_answer("a", 10.0)
    assert waits.expecting
    waits.record_request("a", 10.1)
    assert not waits.expecting


def test_one_that_was_given_up_is_waited_for_again_once_it_is_quick() -> None:
    waits = window()
    waits.record_answer("a", 10.0)
    waits.give_up()
    assert not waits.expecting
    waits.record_request("a", 11.0)
    waits.record_answer("a", 12.0)
    assert not waits.expecting
    waits.record_request("a", 12.1)
    waits.record_answer("a", 13.0)
    assert waits.expecting


def test_a_closed_session_is_forgotten() -> None:
    waits = window()
    waits.record_answer("a", 10.0)
    waits.forget("a")
    assert not waits.expecting


def test_the_window_follows_the_steps_up_to_a_bound() -> None:
    assert window(1.0).seconds == 0.2
    assert window(100.0).seconds == 0.5
    waits = window(1.0)
    waits.record_batch(2.0)
    assert 0.2 < waits.seconds < 0.4
