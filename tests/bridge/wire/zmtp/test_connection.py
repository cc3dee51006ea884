"""What one client may do with a connection, byte by byte."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.bridge.wire.zmtp import Connection, DisconnectError, MemoryBudget
from worldsim.bridge.wire.zmtp.connection import ConnectionLimits
from worldsim.bridge.wire.zmtp.frames import COMMAND, MORE, NullMechanism, command, frame, greeting, metadata

HELLO = greeting("NULL") + frame(COMMAND, command("READY", metadata()))
BOUNDS = ConnectionLimits(part=300_000, total=500_000, kept=4, parts=8, replies=200_000)


class Line:
    """A connection and the client's end of it."""

    def __init__(self, most: int = 10**6) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.budget = MemoryBudget(most, most)
        self.one = Connection(ours, 1, False, NullMechanism(), self.budget, BOUNDS, 0.0)

    def say(self, data: bytes, now: float = 0.0) -> list[list[bytes]]:
        """Send bytes; the messages that are whole by then."""
        found = []
        for at in range(0, len(data), 50_000):
            self.theirs.sendall(data[at : at + 50_000])
            for _ in range(6):
                self.one.read()
                while (whole := self.one.next_message(now)) is not None:
                    found.append([bytes(part) for part in whole.parts])
        self.one.flush()
        return found

    def close(self) -> None:
        self.one.close()
        self.theirs.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    assert made.say(HELLO) == []
    assert made.one.ready
    yield made
    made.close()


def message(*parts: bytes) -> bytes:
    return b"".join(frame(MORE, part) for part in parts[:-1]) + frame(0, parts[-1])


def test_messages_come_as_they_were_sent(line: Line) -> None:
    first, large = [b"a", b"", b"c" * 300], [b"m", b"x" * 250_000]
    assert line.say(message(*first) + message(*large) + message(b"z")) == [first, large, [b"z"]]
    assert line.budget.used == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=400), min_size=1, max_size=4), st.integers(1, 90))
def test_it_does_not_matter_how_bytes_are_cut(parts: list[bytes], step: int) -> None:
    line = Line()
    raw, found = HELLO + message(*parts), []
    for at in range(0, len(raw), step):
        found += line.say(raw[at : at + step])
    assert found == [parts]
    line.close()


def test_parts_that_are_too_many_are_dropped_and_then_cut(line: Line) -> None:
    assert line.say(message(*[b"p"] * 7)) == [[b"p"] * 4 + [b""]]
    with pytest.raises(DisconnectError, match="parts"):
        line.say(frame(MORE, b"") * 9)


@pytest.mark.parametrize(
    "raw",
    [
        bytes([2]) + (300_001).to_bytes(8, "big"),
        bytes([3]) + (2**63).to_bytes(8, "big"),
        bytes([8, 0]),
        bytes([6]) + (5000).to_bytes(8, "big"),
        frame(MORE, b"x" * 250_000) + bytes([2]) + (250_001).to_bytes(8, "big"),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_there(line: Line, raw: bytes) -> None:
    with pytest.raises(DisconnectError):
        line.say(raw)
    line.one.close()
    assert line.budget.used == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n" + bytes(100),
        greeting("CURVE"),
        greeting("NULL")[:10] + b"\x01" + bytes(60),
        greeting("NULL") + frame(0, b"message"),
        greeting("NULL") + frame(COMMAND, command("READY", b"\xffbent")),
        greeting("NULL") + frame(COMMAND, command("READY", b"\x0bSocket-Type\0\0\0\x03PUB")),
        greeting("NULL") + bytes([6]) + (10**6).to_bytes(8, "big"),
    ],
)
def test_strangers_are_cut(raw: bytes) -> None:
    line = Line()
    with pytest.raises(DisconnectError):
        line.say(raw)
    line.close()


def test_a_message_without_room_waits_and_what_is_held_comes_back() -> None:
    line = Line(most=200_000)
    line.say(HELLO)
    reservation = line.budget.open_reservation("another")
    assert reservation.grow(150_000)
    assert line.say(message(b"x" * 100_000)) == []
    assert line.one.starved
    del reservation
    line.one.starved = False
    found = []
    while not found:
        whole = line.one.next_message(0.0)
        found += [] if whole is None else [whole]
        if not found:
            line.one.read()
    assert line.budget.used == 100_000
    found.clear()
    del whole
    assert line.budget.used == 0
    line.close()


def test_an_unfinished_message_has_its_time(line: Line) -> None:
    assert not line.one.timed_out(1000.0)
    line.say(frame(MORE, b"started_at"), now=1000.0)
    assert not line.one.timed_out(1005.0)
    assert line.one.timed_out(1011.0)
    line.say(frame(0, b"finished"), now=1005.0)
    assert not line.one.timed_out(2000.0)


def test_who_does_not_read_is_neither_sent_more_nor_listened_to(line: Line) -> None:
    reply = [b"r" * 150_000]
    sent = [line.one.send(reply) for _ in range(40)]
    assert sent[0]
    assert not sent[-1]
    assert line.one.unsent <= 350_000
    assert line.one.send([b"small"]) is (line.one.unsent + 5 <= 200_000)
    while line.one.unsent:
        line.one.flush()
        line.theirs.recv(10**6)
    assert line.one.send(reply)


def test_a_ping_is_answered(line: Line) -> None:
    line.theirs.recv(1000)
    line.say(frame(COMMAND, command("PING", b"\x00\x0acontext")))
    assert line.theirs.recv(100) == frame(COMMAND, command("PONG", b"context"))
