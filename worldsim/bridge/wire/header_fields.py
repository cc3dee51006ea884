"""Header fields, taken one by one and validated; unknown ones are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from worldsim.errors import BridgeError

__all__ = ["HeaderFields"]

T = TypeVar("T")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_MAX_INTEGER = 2**64 - 1


def is_token(value: object) -> bool:
    """Return True for a token: 32 lower-case hexadecimal digits, as of a lease or a session."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


class HeaderFields:
    """Fields of a received map.

    Args:
        values: the map; validated to be one.
        what: its name in error messages, e.g. "a step".

    Every method removes its key.

    Raises:
        BridgeError: ``BAD_REQUEST`` from each of them, for a key that is missing or of another kind.
    """

    def __init__(self, values: Any, what: str) -> None:
        if not isinstance(values, dict):
            raise BridgeError(f"{what} must be a map", _abbreviated(values))
        self._values, self._what = dict(values), what

    def optional(self, name: str, take: Callable[..., T], *bounds: Any) -> T | None:
        """Take a field with another method; None if it is absent or nil."""
        if self._values.get(name) is not None:
            return take(name, *bounds)
        self._values.pop(name, None)
        return None

    def pop(self, name: str) -> Any:
        """Take a field of any type, or None."""
        return self._values.pop(name, None)

    def peek(self, name: str) -> str:
        """Return a string field without taking or validating it; empty if absent."""
        value = self._values.get(name)
        return value if isinstance(value, str) else ""

    def string(self, name: str, limit: int) -> str:
        """A string of at most ``limit`` characters."""
        value = self.pop(name)
        if not isinstance(value, str) or len(value) > limit:
            raise self._invalid(name, f"a string of at most {limit} characters", value)
        return value

    def token(self, name: str) -> str:
        """32 lower-case hexadecimal digits."""
        return self._checked(name, self.pop(name))

    def tokens(self, name: str, limit: int) -> list[str]:
        """One or more different tokens."""
        value = self.items(name, limit)
        tokens = [self._checked(name, token) for token in value]
        if not tokens or len(set(tokens)) != len(tokens):
            raise self._invalid(name, "one or more different names", value)
        return tokens

    def integer(self, name: str, minimum: int = 0, limit: int = _MAX_INTEGER) -> int:
        """A whole number in [minimum, limit]."""
        value = self.pop(name)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= limit:
            raise self._invalid(name, f"a whole number in {minimum}..{limit}", value)
        return value

    def number(self, name: str, minimum: float = -math.inf, limit: float = math.inf) -> float:
        """A finite number in [minimum, limit]."""
        value = self.pop(name)
        if not _is_finite_number(value) or not minimum <= value <= limit:
            raise self._invalid(name, f"a number in {minimum}..{limit}", value)
        return float(value)

    def numbers(self, name: str, count: int) -> list[float]:
        """``count`` finite numbers."""
        value = self.items(name, count)
        if len(value) != count or not all(map(_is_finite_number, value)):
            raise self._invalid(name, f"{count} numbers", value)
        return [float(number) for number in value]

    def some_numbers(self, name: str, limit: int) -> list[float]:
        """1 to ``limit`` finite numbers."""
        value = self.items(name, limit)
        if not value or not all(map(_is_finite_number, value)):
            raise self._invalid(name, f"1 to {limit} numbers", value)
        return [float(number) for number in value]

    def strings(self, name: str, limit: int) -> list[str]:
        """At most ``limit`` short strings."""
        value = self.items(name, limit)
        if not all(isinstance(text, str) and len(text) <= 64 for text in value):
            raise self._invalid(name, "a list of short strings", value)
        return value

    def items(self, name: str, limit: int) -> list[Any]:
        """A list of at most ``limit`` entries."""
        value = self.pop(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._invalid(name, f"a list of at most {limit}", value)
        return value

    def check_empty(self) -> None:
        """Refuse fields that were not taken."""
        if self._values:
            raise BridgeError(
                f"{self._what} has no such key", _abbreviated(sorted(self._values)), "leave it out"
            )

    def _checked(self, name: str, value: Any) -> str:
        if not is_token(value):
            raise self._invalid(name, "32 lower-case hexadecimal digits", value)
        return value

    def _invalid(self, name: str, wanted: str, value: Any) -> BridgeError:
        return BridgeError(f"{self._what} must have {name!r}: {wanted}", _abbreviated(value))


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _abbreviated(value: Any) -> str:
    return repr(value)[:120]
