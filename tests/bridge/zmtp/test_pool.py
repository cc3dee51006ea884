from __future__ import annotations

from worldsim.bridge.zmtp import Pool


def test_what_is_dropped_is_given_back() -> None:
    pool = Pool(100, 60)
    one, other = pool.charge("a"), pool.charge("b")
    assert one.grow(40)
    assert not one.grow(30)  # more than one may have
    assert other.grow(60)
    assert not pool.charge("c").grow(1)
    assert (pool.used, one.size) == (100, 40)
    del one
    assert pool.used == 60
    assert pool.charge("c").grow(40)
    assert pool.used == 60  # nobody kept it
