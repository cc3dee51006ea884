from __future__ import annotations

from worldsim.bridge.peers import Allowance, Peers


def test_an_allowance_is_a_second_long() -> None:
    allowance = Allowance(2)
    assert [allowance.take(at) for at in (5.0, 5.1, 5.2, 6.0)] == [True, True, False, True]


def test_connections_are_met_again_unless_their_key_is_another() -> None:
    peers = Peers(rate=1, malformed=1)
    peer = peers.meet(False, b"a", "key", 0.0)
    assert peers.meet(False, b"a", "key", 1.0) is peer
    assert peers.meet(True, b"a", "key", 1.0) is not peer
    assert peers.meet(False, b"a", "another", 1.0) is not peer


def test_the_idle_are_forgotten() -> None:
    peers = Peers(rate=1, malformed=1)
    busy, idle = peers.meet(False, b"busy", "", 0.0), peers.meet(False, b"idle", "", 0.0)
    busy.take("a")
    peers.prune(10.0)
    assert len(peers) == 2
    peers.prune(1000.0)
    assert len(peers) == 1
    assert peers.meet(False, b"busy", "", 1000.0) is busy
    assert peers.meet(False, b"idle", "", 1000.0) is not idle


def test_there_is_an_end_to_connections() -> None:
    peers = Peers(rate=1, malformed=1)
    for number in range(5000):
        peers.meet(False, str(number).encode(), "", 0.0)
    peers.prune(0.0)
    assert len(peers) == 4096


def test_sessions_share_what_may_wait() -> None:
    peer = Peers(rate=1, malformed=1).meet(False, b"a", "", 0.0)
    for _ in range(4):
        assert peer.has_room("one", 4)
        peer.take("one")
    assert not peer.has_room("one", 4)
    assert not peer.has_room("two", 4)  # nothing is free
    peer.release("one")
    assert not peer.has_room("one", 3)
    assert peer.has_room("two", 4)
    peer.take("two")
    peer.release("one")
    assert not peer.has_room("one", 4)  # two each, and it has two
    assert peer.has_room("two", 4)
    peer.release("two")
    assert peer.has_room("one", 4)  # alone again


def test_more_sessions_than_places_have_one_each() -> None:
    peer = Peers(rate=1, malformed=1).meet(False, b"a", "", 0.0)
    for name in "abc":
        assert peer.has_room(name, 3)
        peer.take(name)
    assert not peer.has_room("d", 3)
    peer.release("a")
    assert peer.has_room("d", 3)
    assert not peer.has_room("b", 3)
    assert peer.used == 2
