from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.errors import BridgeError

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
METHODS: list[Callable[[HeaderFields], object]] = [
    lambda fields: fields.string("a", 5),
    lambda fields: fields.token("a"),
    lambda fields: fields.tokens("a", 5),
    lambda fields: fields.integer("a", -5, 5),
    lambda fields: fields.number("a", -5, 5),
    lambda fields: fields.numbers("a", 2),
    lambda fields: fields.strings("a", 5),
    lambda fields: fields.items("a", 5),
]


@given(ANYTHING, st.sampled_from(METHODS))
def test_whatever_comes_is_taken_or_refused(value: object, take: Callable[[HeaderFields], object]) -> None:
    fields = HeaderFields({"a": value}, "a thing")
    try:
        take(fields)
    except BridgeError:
        return
    fields.check_empty()


def test_what_is_left_over_is_refused() -> None:
    fields = HeaderFields({"a": 1, "b": 2}, "a thing")
    assert fields.integer("a") == 1
    with pytest.raises(BridgeError, match=r"a thing has no such key; got \"\['b'\]\""):
        fields.check_empty()


def test_nil_is_as_good_as_left_out() -> None:
    fields = HeaderFields({"a": None, "b": 0}, "a thing")
    assert fields.optional("a", fields.integer) is None
    assert fields.optional("b", fields.integer) == 0
    assert fields.optional("c", fields.integer) is None
    fields.check_empty()


@pytest.mark.parametrize("value", ["0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\n", 0, None])
def test_tokens_are_32_lower_case_hexadecimal_digits(value: object) -> None:
    with pytest.raises(BridgeError):
        HeaderFields({"a": value}, "a thing").token("a")


@pytest.mark.parametrize("values", [None, [], "ab", 3])
def test_only_maps_have_fields(values: object) -> None:
    with pytest.raises(BridgeError, match="must be a map"):
        HeaderFields(values, "a thing")
