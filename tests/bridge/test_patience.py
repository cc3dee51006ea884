from __future__ import annotations

from worldsim.bridge.patience import Patience


def patience(seconds: float = 1.0) -> Patience:
    made = Patience(share=0.2, most=0.5)
    made.stepped(seconds)
    return made


def test_a_session_that_was_answered_is_waited_for_until_it_asks() -> None:
    waits = patience()
    waits.answered("a", 10.0)
    assert waits.waiting
    waits.asked("a", 10.1)
    assert not waits.waiting


def test_one_that_was_given_up_is_waited_for_again_once_it_is_quick() -> None:
    waits = patience()
    waits.answered("a", 10.0)
    waits.give_up()
    assert not waits.waiting
    waits.asked("a", 11.0)
    waits.answered("a", 12.0)
    assert not waits.waiting
    waits.asked("a", 12.1)
    waits.answered("a", 13.0)
    assert waits.waiting


def test_a_closed_session_is_forgotten() -> None:
    waits = patience()
    waits.answered("a", 10.0)
    waits.forget("a")
    assert not waits.waiting


def test_the_window_follows_the_steps_up_to_a_bound() -> None:
    assert patience(1.0).window == 0.2
    assert patience(100.0).window == 0.5
    waits = patience(1.0)
    waits.stepped(2.0)
    assert 0.2 < waits.window < 0.4
