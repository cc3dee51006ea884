"""The header of a step, read in one go, against the same read field by field."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worldsim.bridge.server.connections import ClientConnection, ConnectionTable
from worldsim.bridge.server.incoming_message import IncomingMessage
from worldsim.bridge.server.requests import Envelope, Request, RequestReader, read_envelope, read_op_and_id
from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.bridge.wire.protocol import CODECS, MAGIC, REQUEST, ClientLimits, decode
from worldsim.bridge.wire.step_header import read_step
from worldsim.bridge.wire.zmtp import MemoryBudget
from worldsim.errors import BridgeError

LEASE, SESSION = "1" * 32, "a" * 32
STEP = {"op": "step", "id": 7, "lease": LEASE, "session": SESSION, "seq": 3}
POSE = [float(number) for number in range(16)]

NUMBERS = st.integers(0, 2**64 - 1)
REALS = st.floats(-9, 9) | st.integers(-9, 9)
CONTROLS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "keys": st.none() | st.lists(st.text(max_size=64), max_size=4),
        "yaw": st.none() | REALS,
        "pose": st.none() | st.lists(REALS, min_size=16, max_size=16),
        "prompt": st.none() | st.text(max_size=8),
        "action": st.none() | st.lists(REALS, min_size=1, max_size=4),
    },
)
GOOD = {
    "op": st.just("step"),
    "id": NUMBERS,
    "lease": st.just(LEASE),
    "session": st.just(SESSION),
    "seq": st.integers(1, 2**64 - 1),
    "control": CONTROLS,
    "codec": st.none() | st.sampled_from(CODECS),
    "trace": st.none() | st.text(max_size=64),
    "deadline_ms": st.none() | st.floats(0, 1e9) | st.integers(0, 10**9),
}
ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=70)
    | st.binary(max_size=4)
    | st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=17)
    | st.dictionaries(
        st.sampled_from(["keys", "yaw", "pose", "action", "x"]), st.floats() | st.lists(st.text())
    )
)
DENOISING_STEPS = st.fixed_dictionaries(GOOD)
ALMOST = st.builds(
    lambda header, odd: {**header, **odd},
    DENOISING_STEPS,
    st.dictionaries(st.sampled_from([*GOOD, "key", "x"]), ODD, min_size=1, max_size=2),
)
"""Headers of which a part or two are most often wrong."""


def connection() -> ClientConnection:
    return ConnectionTable(1, 1).lookup(False, b"", "", 0.0)


def reader() -> RequestReader:
    return RequestReader(lambda _: None, ClientLimits(), (8, 60, 80, 3))


Read = tuple[Envelope, str, list[Any], bool]


def request_summary(envelope: Envelope, request: Request) -> Read:
    return envelope, request.codec, request.tasks, request.many


def read_slowly(parts: list[bytes], *, behind_router: bool) -> Read:
    fields = HeaderFields(decode(parts).header, "a request")
    envelope = read_op_and_id(fields)
    read_envelope(fields, envelope, behind_router=behind_router)
    return request_summary(envelope, reader().read(envelope, fields, parts[2:], connection(), 0.0))


def read_at_once(parts: list[bytes], *, behind_router: bool) -> Read | None:
    message = IncomingMessage(parts, connection(), 0.0, MemoryBudget(1, 1).open_reservation(""))
    try:
        message.open(behind_router=behind_router)
    except BridgeError:
        return None
    if message.step is None:
        return None
    envelope = message.envelope
    return request_summary(envelope, reader().read_step(message.step, envelope, message.connection, 0.0))


@given(DENOISING_STEPS, st.booleans())
@example(STEP | {"control": {"keys": ["forward"], "yaw": 0.1, "pose": POSE}}, False)
def test_a_step_is_read_in_one_go_and_comes_to_the_same(header: dict[str, Any], behind_router: bool) -> None:
    parts = [MAGIC, msgpack.packb(header | ({"key": "someone"} if behind_router else {}))]
    assert read_at_once(parts, behind_router=behind_router) == read_slowly(parts, behind_router=behind_router)


@given(ALMOST, st.booleans())
def test_whatever_is_read_in_one_go_would_be_read_field_by_field(
    header: dict[str, Any], behind_router: bool
) -> None:
    parts = [MAGIC, msgpack.packb(header)]
    fast = read_at_once(parts, behind_router=behind_router)
    assert fast is None or fast == read_slowly(parts, behind_router=behind_router)


@pytest.mark.parametrize(
    "odd",
    [
        {"op": "close"},
        {"op": None},
        {"id": -1},
        {"id": True},
        {"id": 1.0},
        {"id": "1"},
        {"seq": 0},
        {"lease": "1" * 31},
        {"lease": "1" * 31, "session": "a" * 33},
        {"session": "A" * 32},
        {"session": "a" * 31 + "\n"},
        {"session": None},
        {"codec": "mp4"},
        {"codec": ""},
        {"trace": "x" * 65},
        {"deadline_ms": math.nan},
        {"deadline_ms": math.inf},
        {"deadline_ms": -1},
        {"deadline_ms": 2e9},
        {"control": []},
        {"control": {"keys": "forward"}},
        {"control": {"keys": ["x" * 65]}},
        {"control": {"keys": ["x"] * 65}},
        {"control": {"yaw": math.nan}},
        {"control": {"yaw": True}},
        {"control": {"pose": POSE[:15]}},
        {"control": {"pose": [*POSE[:15], math.inf]}},
        {"control": {"prompt": "x" * 257}},
        {"control": {"prompt": 1}},
        {"control": {"action": []}},
        {"control": {"action": [0.0] * 257}},
        {"control": {"action": [0.0, math.nan]}},
        {"control": {"action": 0.5}},
        {"key": "someone"},
        {"x": 1},
    ],
)
def test_any_other_header_is_left_to_be_read_field_by_field(odd: dict[str, Any]) -> None:
    assert read_step([MAGIC, msgpack.packb(STEP | odd)], behind_router=False) is None


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [MAGIC],
        [MAGIC, msgpack.packb(STEP), b""],
        [b"WSIM\x02", msgpack.packb(STEP)],
        [MAGIC, msgpack.packb(STEP) + b"\x00"],
        [MAGIC, msgpack.packb(STEP)[:-1]],
        [MAGIC, msgpack.packb(STEP | {"control": {"keys": [b"forward"]}})],
        [MAGIC, b"\x81\xa5trace\xa2\xff\xff"],
        [MAGIC, b"\x81\xa7control" + b"\x91" * 60_000],
        [MAGIC, b"\x81\xa7control\x81\xa4keys\xdd\xff\xff\xff\xff"],
        [MAGIC, msgpack.packb(STEP | {"trace": "x" * REQUEST.header})],
    ],
)
def test_malformed_messages_are_none(parts: list[bytes]) -> None:
    assert read_step(parts, behind_router=False) is None


@pytest.mark.parametrize("extra", [{}, {"key": 5}, {"key": "x" * 65}])
def test_a_router_says_whose_a_step_is(extra: dict[str, Any]) -> None:
    assert read_step([MAGIC, msgpack.packb(STEP | extra)], behind_router=True) is None
    header = read_step([MAGIC, msgpack.packb(STEP | {"key": "someone"})], behind_router=True)
    assert header is not None
    assert header.client_key == "someone"
