from __future__ import annotations

from worldsim.bridge.wire.zmtp import MemoryBudget


def test_what_is_dropped_is_given_back() -> None:
    budget = MemoryBudget(100, 60)
    one, other = budget.open_reservation("a"), budget.open_reservation("b")
    assert one.grow(40)
    assert not one.grow(30)  # more than one may have
    assert other.grow(60)
    assert not budget.open_reservation("c").grow(1)
    assert (budget.used, one.size) == (100, 40)
    del one
    assert budget.used == 60
    assert budget.open_reservation("c").grow(40)
    assert budget.used == 60  # nobody kept it
