from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.bridge.fields import Fields
from worldsim.errors import BridgeError

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
METHODS: list[Callable[[Fields], object]] = [
    lambda fields: fields.text("a", 5),
    lambda fields: fields.token("a"),
    lambda fields: fields.tokens("a", 5),
    lambda fields: fields.number("a", -5, 5),
    lambda fields: fields.real("a", -5, 5),
    lambda fields: fields.reals("a", 2),
    lambda fields: fields.texts("a", 5),
    lambda fields: fields.entries("a", 5),
]


@given(ANYTHING, st.sampled_from(METHODS))
def test_whatever_comes_is_taken_or_refused(value: object, take: Callable[[Fields], object]) -> None:
    fields = Fields({"a": value}, "a thing")
    try:
        take(fields)
    except BridgeError:
        return
    fields.end()


def test_what_is_left_over_is_refused() -> None:
    fields = Fields({"a": 1, "b": 2}, "a thing")
    assert fields.number("a") == 1
    with pytest.raises(BridgeError, match=r"a thing has no such key; got \"\['b'\]\""):
        fields.end()


def test_nil_is_as_good_as_left_out() -> None:
    fields = Fields({"a": None, "b": 0}, "a thing")
    assert fields.maybe("a", fields.number) is None
    assert fields.maybe("b", fields.number) == 0
    assert fields.maybe("c", fields.number) is None
    fields.end()


@pytest.mark.parametrize("value", ["0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\n", 0, None])
def test_tokens_are_32_lower_case_hexadecimal_digits(value: object) -> None:
    with pytest.raises(BridgeError):
        Fields({"a": value}, "a thing").token("a")


@pytest.mark.parametrize("values", [None, [], "ab", 3])
def test_only_maps_have_fields(values: object) -> None:
    with pytest.raises(BridgeError, match="must be a map"):
        Fields(values, "a thing")
