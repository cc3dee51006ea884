"""The course of the learning rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.training.stage import lr_factor

shares = st.floats(0, 1)


def test_it_warms_up_holds_and_falls() -> None:
    assert lr_factor(0.0, 0, 0.4) == pytest.approx(1 / 20)
    assert lr_factor(0.0, 9, 0.4) == pytest.approx(0.5)
    assert lr_factor(0.1, 19, 0.4) == lr_factor(0.39, 1000, 0.4) == 1
    assert lr_factor(0.7, 1000, 0.4) == pytest.approx(0.5)
    assert lr_factor(1.0, 1000, 0.4) == pytest.approx(0.02)


@given(shares, st.integers(0, 10**6), st.floats(0, 0.99))
def test_it_is_a_share_of_the_peak(progress: float, step: int, hold: float) -> None:
    assert 0 < lr_factor(progress, step, hold) <= 1


@given(shares, shares, st.floats(0, 0.99))
def test_it_never_rises_again(a: float, b: float, hold: float) -> None:
    early, late = sorted((a, b))
    assert lr_factor(late, 100, hold) <= lr_factor(early, 100, hold) + 1e-12
