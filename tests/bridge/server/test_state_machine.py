"""A server under any sequence of requests, against a model that knows only what was acknowledged.

Two clients open, step, observe, fork, rewind, restore and close; requests come twice, late, in the wrong
order and for others' sessions; sessions are offloaded because there are few slots; the server is restarted.
A frame is a function of (seed, start, controls, real frames): whoever has the same past must show the same
one, bit for bit.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.bridge.scripted_client import ScriptedClient, name
from tests.tiny import lively_world
from worldsim.bridge.journal.journal import Journal
from worldsim.bridge.server import server
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.bridge.wire.protocol import REMEMBERED, Message
from worldsim.engine.world import World, load

SLOTS, ROOM, REWIND_FRAMES = 2, 5, 4
CONTROLS = ({"keys": ["forward"]}, {"keys": ["turn_left"]}, {"yaw": 0.2})
REAL = tuple(bytes([level]) * (60 * 80 * 3) for level in (40, 200))
OBSERVE = {
    "frame": {"dtype": "u1", "shape": [60, 80, 3], "part": 0},
    "control": {"pose": [1, 0, 0, 2, 0, 0, 1, 2, 0, -1, 0, 1, 0, 0, 0, 1]},
}
NUMBERS = st.integers(0, 9)

Past = tuple[int, int, tuple[int, ...]]
"""Seed, start, numbers of the controls so far; below 0 they are real frames, -1 being the first."""


@dataclass(eq=False)
class Modelled:
    """What must be true of a session."""

    owner: int
    past: Past
    name: str = field(default_factory=name)
    seq: int = 0
    max_rewind: int = 0
    asked: dict[int, tuple[dict[str, Any], tuple[bytes, ...], bytes]] = field(default_factory=dict)
    """The last requests that were acknowledged, their payloads, and the frames that came."""

    def move(self, number: int) -> None:
        """One frame more."""
        seed, start, controls = self.past
        self.past, self.max_rewind = (
            (seed, start, (*controls, number)),
            min(REWIND_FRAMES, self.max_rewind + 1),
        )


class Machine(RuleBasedStateMachine):
    world: World
    folder: Path
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        Machine.runs += 1
        self.home = self.folder / str(Machine.runs)
        self.home.mkdir()
        self.lives = 0
        self.open: list[Modelled] = []
        self.gone: list[Modelled] = []
        self.blobs: list[tuple[bytes, Past]] = []
        self.shown: dict[Past, bytes] = {}
        self.clients: list[ScriptedClient] = []
        self.begin()

    def begin(self) -> None:
        """Serve from the state of this life; clients come back with their leases."""
        offload_bytes = (ROOM - SLOTS) * self.world.engine(1).session_bytes
        engine = self.world.engine(
            SLOTS, denoising_steps=1, rewind_frames=REWIND_FRAMES, offload_bytes=offload_bytes
        )
        address = f"ipc://{self.home}/{self.lives}"
        self.server = Server(engine, ServerOptions(address=address, journal=self.home / f"state{self.lives}"))
        leases = [client.lease for client in self.clients]
        for client in self.clients:
            client.close()
        self.clients = [ScriptedClient(address, greet=False) for _ in range(2)]
        for number, client in enumerate(self.clients):
            reply = client.ask("hello", client="test", **({"lease": leases[number]} if leases else {}))
            client.lease = reply["lease"]
            own = {one.name: one.seq for one in self.open if one.owner == number}
            assert reply["sessions"] == own
            assert not leases or leases[number] == client.lease

    def pick(self, number: int) -> Modelled:
        return self.open[number % len(self.open)]

    def ask(self, one: Modelled, op: str, *payloads: bytes, **keys: Any) -> Message:
        return self.clients[one.owner].fetch(op, *payloads, session=one.name, **keys)

    def send(self, one: Modelled, request: dict[str, Any], *payloads: bytes) -> Message:
        keys = {key: value for key, value in request.items() if key != "op"}
        return self.ask(one, request["op"], *payloads, **keys)

    def is_full(self, owner: int, more: int = 1) -> bool:
        """Whether there is no room, where a slot is kept for a client that has none."""
        own = sum(one.owner == owner for one in self.open)
        kept = min(1, ROOM // 4) if own == len(self.open) > 0 else 0
        return len(self.open) + more + kept > ROOM

    def check(self, past: Past, frame: bytes) -> None:
        assert self.shown.setdefault(past, frame) == frame

    def take(self, one: Modelled, reply: Message, request: dict[str, Any], *payloads: bytes) -> None:
        """A step, an observed frame or a rewind was acknowledged."""
        assert reply.header["ok"], reply.header
        one.seq += 1
        step = reply.header["step"]
        assert step["seq"] == one.seq
        assert step["index"] == len(self.world.starts[one.past[1]].frames) - 1 + len(one.past[2])
        frame = bytes(reply.payloads[0])
        self.check(one.past, frame)
        one.asked[one.seq] = (request, payloads, frame)
        one.asked.pop(one.seq - REMEMBERED, None)

    @rule(seed=st.integers(0, 2), start=st.integers(0, 1), owner=st.integers(0, 1))
    def open_session(self, seed: int, start: int, owner: int) -> None:
        one = Modelled(owner, (seed, start, ()))
        reply = self.ask(one, "open", seed=seed, start=start)
        if self.is_full(owner):
            assert reply.header["error"]["code"] == "UNAVAILABLE"
            return
        self.check(one.past, bytes(reply.payloads[0]))
        assert bytes(self.ask(one, "open", seed=seed, start=start).payloads[0]) == bytes(reply.payloads[0])
        self.open.append(one)

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, control=st.integers(0, len(CONTROLS) - 1), times=st.integers(1, 3))
    def step(self, number: int, control: int, times: int) -> None:
        one = self.pick(number)
        for _ in range(times):
            request = {"op": "step", "seq": one.seq + 1, "control": CONTROLS[control]}
            reply = self.ask(one, **request)
            one.move(control)
            self.take(one, reply, request)

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, which=st.integers(0, len(REAL) - 1))
    def observe(self, number: int, which: int) -> None:
        one = self.pick(number)
        request = {"op": "observe", "seq": one.seq + 1, **OBSERVE}
        reply = self.send(one, request, REAL[which])
        one.move(-1 - which)
        self.take(one, reply, request, REAL[which])
        assert bytes(reply.payloads[0]) == REAL[which]

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, size=st.sampled_from([0, 1, len(REAL[0]) - 3]))
    def observe_nothing(self, number: int, size: int) -> None:
        one = self.pick(number)
        frame = {"dtype": "u1", "shape": [size], "part": 0}
        reply = self.ask(one, "observe", bytes(size), seq=one.seq + 1, **{**OBSERVE, "frame": frame})
        assert reply.header["error"]["code"] == "ENGINE"

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, frames=st.integers(1, REWIND_FRAMES))
    def rewind(self, number: int, frames: int) -> None:
        one = self.pick(number)
        request = {"op": "rewind", "seq": one.seq + 1, "frames": frames}
        reply = self.ask(one, **request)
        if frames > one.max_rewind:
            assert reply.header["error"]["code"] == "ENGINE"
            return
        seed, start, controls = one.past
        one.past, one.max_rewind = (seed, start, controls[:-frames]), one.max_rewind - frames
        self.take(one, reply, request)

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, count=st.integers(1, 2))
    def fork(self, number: int, count: int) -> None:
        one = self.pick(number)
        twins = [Modelled(one.owner, one.past, max_rewind=one.max_rewind) for _ in range(count)]
        for _ in range(2):
            reply = self.ask(one, "fork", seq=one.seq, children=[twin.name for twin in twins])
            if self.is_full(one.owner, count):
                assert reply.header["error"]["code"] == "UNAVAILABLE"
                return
            self.check(one.past, bytes(reply.payloads[0]))
        self.open += twins

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS)
    def snapshot(self, number: int) -> None:
        one = self.pick(number)
        self.blobs.append((bytes(self.ask(one, "snapshot").payloads[0]), one.past))

    @precondition(lambda self: self.blobs)
    @rule(number=NUMBERS, owner=st.integers(0, 1))
    def restore(self, number: int, owner: int) -> None:
        blob, past = self.blobs[number % len(self.blobs)]
        one = Modelled(owner, past)
        reply = self.ask(one, "restore", blob)
        if self.is_full(owner):
            assert reply.header["error"]["code"] == "UNAVAILABLE"
            return
        self.check(past, bytes(reply.payloads[0]))
        self.open.append(one)

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS)
    def close(self, number: int) -> None:
        one = self.pick(number)
        for _ in range(2):
            assert self.ask(one, "close").header["ok"]
        self.open.remove(one)
        self.gone.append(one)

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, back=st.integers(0, REMEMBERED - 1))
    def duplicate(self, number: int, back: int) -> None:
        one = self.pick(number)
        if one.asked:
            seq = max(min(one.asked), one.seq - back)
            request, payloads, frame = one.asked[seq]
            reply = self.send(one, request, *payloads)
            assert reply.header["step"]["seq"] == seq
            assert bytes(reply.payloads[0]) == frame

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, ahead=st.integers(2, 5))
    def reorder(self, number: int, ahead: int) -> None:
        one = self.pick(number)
        reply = self.ask(one, "step", seq=one.seq + ahead, control={})
        assert (reply.header["error"]["code"], reply.header["error"]["value"]) == (
            "OUT_OF_ORDER",
            str(one.seq),
        )

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, op=st.sampled_from(["step", "snapshot", "close", "rewind"]))
    def another_client_tries(self, number: int, op: str) -> None:
        one = self.pick(number)
        keys = {"step": {"seq": one.seq + 1}, "rewind": {"seq": one.seq + 1, "frames": 1}}
        other = self.clients[1 - one.owner]
        assert other.refusal(op, session=one.name, **keys.get(op, {})) == "PERMISSION_DENIED"

    @precondition(lambda self: self.gone)
    @rule(number=NUMBERS)
    def step_a_closed_one(self, number: int) -> None:
        one = self.gone[number % len(self.gone)]
        reply = self.ask(one, "step", seq=one.seq + 1)
        assert reply.header["error"]["code"] == "UNKNOWN_SESSION"

    @rule(dies=st.booleans())
    def restart(self, dies: bool) -> None:
        """A copy of the state of a server that still runs is what it leaves when it dies."""
        old, new = (self.home / f"state{self.lives + i}" for i in range(2))
        if dies:
            shutil.copytree(old, new)
        self.finish()
        if not dies:
            shutil.copytree(old, new)
        self.lives += 1
        self.begin()

    def finish(self) -> None:
        self.server.stop()
        assert self.server.fault is None

    @invariant()
    def every_slot_is_held_once(self) -> None:
        info = self.clients[0].ask("info")
        assert info["sessions"] == len(self.open)
        assert info["free"] == ROOM - len(self.open)

    def teardown(self) -> None:
        for one in self.open:
            assert self.ask(one, "close").header["ok"]
        assert self.clients[0].ask("info")["free"] == ROOM
        for client in self.clients:
            client.close()
        self.finish()


@pytest.mark.slow
def test_any_sequence_of_requests(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server, "Journal", partial(Journal, snapshot_interval=3)
    )  # so that snapshots are replayed from
    Machine.world = load(lively_world(tmp_path_factory.mktemp("world")), "cpu", torch.float32)
    Machine.folder = tmp_path_factory.mktemp("m")
    case = Machine.TestCase()
    case.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
    case.runTest()
