"""Who sits where, against a plain model of slots and rooms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.engine.scheduler import Scheduler, SlotChange
from worldsim.errors import EngineError


def test_the_one_idle_for_longest_gives_way() -> None:
    scheduler = Scheduler(slots=2, sessions=3)
    a, b, c = (scheduler.admit() for _ in range(3))
    scheduler.plan([a])
    scheduler.plan([b])
    scheduler.plan([a])
    plan = scheduler.plan([c])
    assert [move.session for move in plan.offload] == [b]
    assert plan.load == (SlotChange(c, plan.offload[0].slot),)
    assert (scheduler.slot(b), scheduler.offloaded, scheduler.free) == (None, 1, 0)


def test_a_full_one_admits_nobody() -> None:
    scheduler = Scheduler(slots=1, sessions=2)
    scheduler.admit()
    scheduler.check(1)
    with pytest.raises(EngineError, match="2 more, 1 in use"):
        scheduler.check(2)
    scheduler.admit()
    with pytest.raises(EngineError, match="room for"):
        scheduler.admit()


@given(st.data())
def test_the_active_are_always_seated_and_nobody_shares(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 4))
    scheduler = Scheduler(slots, slots + data.draw(st.integers(0, 4)))
    live: list[int] = []
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["admit", "plan", "remove", "offload"]))
        if action == "admit" and scheduler.free:
            live.append(scheduler.admit())
        elif action == "plan" and live:
            active = data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=slots, unique=True))
            before = {one: scheduler.slot(one) for one in active}
            plan = scheduler.plan(active)
            assert not {move.session for move in plan.offload} & set(active)
            seated = {move.session for move in plan.load}
            for one in active:
                assert scheduler.slot(one) is not None
                assert (one in seated) == (before[one] is None)
        elif action == "remove" and live:
            scheduler.remove(live.pop(data.draw(st.integers(0, len(live) - 1))))
        elif action == "offload" and live:
            one = data.draw(st.sampled_from(live))
            if scheduler.slot(one) is not None:
                scheduler.offload(one)
        held = [scheduler.slot(one) for one in live if scheduler.slot(one) is not None]
        assert len(set(held)) == len(held)
        assert set(held) <= set(range(slots))
        assert scheduler.free == scheduler.sessions - len(live)
        assert scheduler.offloaded == len(live) - len(held)
