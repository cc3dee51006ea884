from __future__ import annotations

from worldsim.bridge.server.connections import ConnectionTable, RateLimiter


def test_an_allowance_is_a_second_long() -> None:
    rate_limiter = RateLimiter(2)
    assert [rate_limiter.allow(at) for at in (5.0, 5.1, 5.2, 6.0)] == [True, True, False, True]


def test_connections_are_met_again_unless_their_key_is_another() -> None:
    connections = ConnectionTable(rate=1, malformed=1)
    connection = connections.lookup(False, b"a", "key", 0.0)
    assert connections.lookup(False, b"a", "key", 1.0) is connection
    assert connections.lookup(True, b"a", "key", 1.0) is not connection
    assert connections.lookup(False, b"a", "another", 1.0) is not connection


def test_the_idle_are_forgotten() -> None:
    connections = ConnectionTable(rate=1, malformed=1)
    busy, idle = connections.lookup(False, b"busy", "", 0.0), connections.lookup(False, b"idle", "", 0.0)
    busy.start_request("a")
    connections.prune(10.0)
    assert len(connections) == 2
    connections.prune(1000.0)
    assert len(connections) == 1
    assert connections.lookup(False, b"busy", "", 1000.0) is busy
    assert connections.lookup(False, b"idle", "", 1000.0) is not idle


def test_there_is_an_end_to_connections() -> None:
    connections = ConnectionTable(rate=1, malformed=1)
    for number in range(5000):
        connections.lookup(False, str(number).encode(), "", 0.0)
    connections.prune(0.0)
    assert len(connections) == 4096


def test_sessions_share_what_may_wait() -> None:
    connection = ConnectionTable(rate=1, malformed=1).lookup(False, b"a", "", 0.0)
    for _ in range(4):
        assert connection.has_room("one", 4)
        connection.start_request("one")
    assert not connection.has_room("one", 4)
    assert not connection.has_room("two", 4)  # nothing is free
    connection.finish_request("one")
    assert not connection.has_room("one", 3)
    assert connection.has_room("two", 4)
    connection.start_request("two")
    connection.finish_request("one")
    assert not connection.has_room("one", 4)  # two each, and it has two
    assert connection.has_room("two", 4)
    connection.finish_request("two")
    assert connection.has_room("one", 4)  # alone again


def test_more_sessions_than_places_have_one_each() -> None:
    connection = ConnectionTable(rate=1, malformed=1).lookup(False, b"a", "", 0.0)
    for name in "abc":
        assert connection.has_room(name, 3)
        connection.start_request(name)
    assert not connection.has_room("d", 3)
    connection.finish_request("a")
    assert connection.has_room("d", 3)
    assert not connection.has_room("b", 3)
    assert connection.in_flight_total == 2
