from __future__ import annotations

from collections.abc import Callable

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.bridge.wire.protocol import (
    MAGIC,
    REPLY,
    REQUEST,
    ClientLimits,
    Code,
    Message,
    control_address,
    decode,
    describe,
    encode,
    error_body,
    is_local,
    parse_error,
    read_array,
)
from worldsim.errors import BridgeError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def deep(levels: int) -> dict[str, object]:
    header: dict[str, object] = {}
    for _ in range(levels - 1):
        header = {"a": header}
    return header


def attempt(work: Callable[[], object]) -> object:
    """What ``work`` returns, or the typed error that it raises."""
    try:
        return work()
    except BridgeError as error:
        return error


def refused(parts: list[bytes]) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        decode(parts)
    return caught.value


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=6), st.lists(st.binary(max_size=50), max_size=4))
def test_what_is_encoded_is_decoded(header: dict[str, object], payloads: list[bytes]) -> None:
    message = attempt(lambda: decode(encode(header, payloads)))
    if isinstance(message, BridgeError):
        assert "nested" in message.rule
    else:
        assert message == Message(header, payloads)


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_any_bytes_are_a_message_or_a_typed_error(parts: list[bytes]) -> None:
    assert isinstance(attempt(lambda: decode(parts)), Message | BridgeError)


@given(st.binary(max_size=300))
def test_any_header_is_a_map_or_a_typed_error(raw: bytes) -> None:
    assert isinstance(attempt(lambda: decode([MAGIC, raw])), Message | BridgeError)


@given(PLAIN, st.lists(st.binary(max_size=64), max_size=3))
def test_any_entry_is_an_array_or_a_typed_error(entry: object, payloads: list[bytes]) -> None:
    assert isinstance(attempt(lambda: read_array(entry, payloads)), np.ndarray | BridgeError)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        msgpack.packb([1]),
        msgpack.packb({1: 2}),
        msgpack.packb({"a": b"bytes"}),
        msgpack.packb({"a": b""}),
        msgpack.packb({"a": float("nan")}),
        msgpack.packb({"a": [float("inf")]}),
        msgpack.packb({"a": msgpack.ExtType(5, b"")}),
        msgpack.packb({"a": msgpack.Timestamp(1)}),
        msgpack.packb({"a": 1}) + b"\x00",
        msgpack.packb({"a": "x" * 100})[:-1],
        msgpack.packb({"a": [[]] * 5000}),
        msgpack.packb(deep(7)),
        b"\x91" * 60_000,
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xdb\xff\xff\xff\xff",
        msgpack.packb({"a": "x" * REQUEST.header}),
    ],
)
def test_headers_that_are_refused(raw: bytes) -> None:
    assert refused([MAGIC, raw]).code == Code.BAD_REQUEST


def test_the_deepest_header_that_is_taken() -> None:
    assert decode(encode(deep(6))).header == deep(6)


def test_parts_and_payloads_are_counted_and_measured() -> None:
    header = msgpack.packb({})
    assert refused([MAGIC]).code == Code.BAD_REQUEST
    assert refused([MAGIC, header, *[b""] * 5]).code == Code.BAD_REQUEST
    assert refused([MAGIC, header, bytes(REQUEST.payload + 1)]).code == Code.BAD_REQUEST
    with pytest.raises(BridgeError) as caught:
        encode({"a": "x" * REQUEST.header})
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    assert decode(encode({"a": "x" * REQUEST.header}, bounds=REPLY), REPLY).header


def test_another_version_is_named() -> None:
    error = refused([b"WSIM\x02", msgpack.packb({})])
    assert (error.code, error.value) == (Code.VERSION, 1)
    assert refused([b"HTTP/1.1", b""]).code == Code.BAD_REQUEST


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_arrays_travel_as_payloads(dtype: type) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    back = read_array(describe(array), [array.tobytes()])
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert not back.flags.writeable


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"dtype": "u1", "shape": [4]},
        {"dtype": "u1", "shape": [4], "part": 0, "more": 1},
        {"dtype": "O", "shape": [4], "part": 0},
        {"dtype": ["u1"], "shape": [4], "part": 0},
        {"dtype": "f4", "shape": [4], "part": 0},
        {"dtype": "u1", "shape": [-1, -4], "part": 0},
        {"dtype": "u1", "shape": [2**40, 0], "part": 0},
        {"dtype": "u1", "shape": [True] * 4, "part": 0},
        {"dtype": "u1", "shape": [4], "part": 1},
        {"dtype": "u1", "shape": [4], "part": -1},
        {"dtype": "u1", "shape": [1] * 9, "part": 0},
    ],
)
def test_arrays_that_are_refused(entry: object) -> None:
    with pytest.raises(BridgeError):
        read_array(entry, [b"1234"])


@pytest.mark.parametrize("dtype", [np.int64, bool, object, ">f4"])
def test_only_some_types_travel(dtype: object) -> None:
    with pytest.raises(BridgeError, match="must be of u1, f2, f4, f8"):
        describe(np.zeros(2, dtype))  # type: ignore[call-overload]


def test_errors_travel_whole() -> None:
    error = BridgeError("a rule", 7, "a remedy", code=Code.UNAVAILABLE, retry_after_ms=12.5)
    back = parse_error(decode(encode({"error": error_body(error)})).header["error"])
    assert (back.rule, back.value, back.remedy) == ("a rule", "7", "a remedy")
    assert (back.code, back.retry_after_ms) == ("UNAVAILABLE", 12.5)
    assert parse_error(None).code == Code.INTERNAL


@pytest.mark.parametrize(
    ("address", "control"),
    [("ipc:///tmp/a.sock", "ipc:///tmp/a.sock.control"), ("tcp://127.0.0.1:5757", "tcp://127.0.0.1:5758")],
)
def test_the_control_address_follows_from_the_other(address: str, control: str) -> None:
    assert control_address(address) == control


@pytest.mark.parametrize("address", ["", "ipc://", "tcp://host", "tcp://host:65535", "udp://a:1", "tcp://:1"])
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(BridgeError):
        control_address(address)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("ipc:///tmp/a", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://*:1", False),
        ("tcp://127.evil.example:1", False),
        ("tcp://10.0.0.1:1", False),
        ("ws://127.0.0.1:1", False),
    ],
)
def test_which_addresses_are_local(address: str, local: bool) -> None:
    assert is_local(address) == local


def test_limits_are_plain_numbers() -> None:
    assert ClientLimits().to_dict()["waiting"] == 64
