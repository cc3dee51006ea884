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
    busy.waiting = 1
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
