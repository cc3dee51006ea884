from __future__ import annotations

import pytest

from worldsim.bridge.server.leases import Leases
from worldsim.errors import BridgeError


def test_a_sign_of_life_renews_a_lease() -> None:
    leases = Leases(ttl=10)
    lease = leases.grant("key", "robot", 0.0)
    assert leases.expire(9.0) == []
    assert leases.require(lease.token, "key", 9.0) is lease
    assert leases.expire(18.0) == []
    assert leases.expire(20.0) == [lease]
    assert leases.find(lease.token, "key", 20.0) is None
    with pytest.raises(BridgeError, match="alive"):
        leases.require(lease.token, "key", 20.0)


def test_a_lease_outlives_the_requests_that_it_waits_for() -> None:
    leases = Leases(ttl=10)
    lease = leases.grant("", "robot", 0.0)
    lease.waiting += 1
    assert leases.expire(100.0) == []
    leases.release(lease.token, 100.0)
    assert leases.expire(105.0) == []
    assert leases.expire(111.0) == [lease]
    leases.release(lease.token, 112.0)


def test_a_lease_is_bound_to_its_key() -> None:
    leases = Leases(ttl=10)
    lease = leases.grant("key", "robot", 0.0)
    with pytest.raises(BridgeError) as caught:
        leases.find(lease.token, "another", 0.0)
    assert caught.value.code == "PERMISSION_DENIED"


def test_a_lease_comes_back_from_its_record() -> None:
    leases, later = Leases(ttl=10), Leases(ttl=10)
    lease = leases.grant("key", "robot", 0.0)
    later.recover(lease.record(), 50.0)
    again = later.require(lease.token, "key", 59.0)
    assert (again.key, again.client) == ("key", "robot")


def test_there_is_an_end_to_leases() -> None:
    leases = Leases(ttl=10)
    for _ in range(4096):
        leases.grant("", "", 0.0)
    with pytest.raises(BridgeError) as caught:
        leases.grant("", "", 0.0)
    assert caught.value.code == "UNAVAILABLE"


def test_nobody_is_silent_while_nobody_listens() -> None:
    leases = Leases(ttl=10)
    leases.record_poll(0.0)
    lease = leases.grant("", "robot", 0.0)
    leases.record_poll(0.9)
    assert leases.expire(100.0) == []
    leases.record_poll(100.0)
    assert leases.expire(100.0) == []
    for now in range(101, 120):
        leases.record_poll(now)
    assert leases.expire(119.0) == [lease]


def test_an_owner_has_so_many() -> None:
    leases = Leases(ttl=10)
    for _ in range(64):
        leases.grant("", "", 0.0, owner="connection")
    with pytest.raises(BridgeError) as caught:
        leases.grant("", "", 0.0, owner="connection")
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert leases.grant("", "", 0.0, owner="another")
    leases.expire(11.0)
    assert leases.owned == {}
