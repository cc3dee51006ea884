"""The keys of a header, taken one by one and checked; what is left over is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from worldsim.errors import BridgeError

__all__ = ["Fields"]

T = TypeVar("T")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_MOST = 2**64 - 1


class Fields:
    """A map that came in.

    Args:
        values: the map; checked to be one.
        what: how messages call it, e.g. "a step".

    Every method takes a key out.

    Raises:
        BridgeError: ``BAD_REQUEST`` from each of them, for a key that is missing or of another kind.
    """

    def __init__(self, values: Any, what: str) -> None:
        if not isinstance(values, dict):
            raise BridgeError(f"{what} must be a map", _short(values))
        self._values, self._what = dict(values), what

    def maybe(self, name: str, take: Callable[..., T], *bounds: Any) -> T | None:
        """What ``take``, another method, makes of a key; None where it is left out or nil."""
        if self._values.get(name) is not None:
            return take(name, *bounds)
        self._values.pop(name, None)
        return None

    def any(self, name: str) -> Any:
        """Whatever is there, or None."""
        return self._values.pop(name, None)

    def peek(self, name: str) -> str:
        """A key's string, left where it is and not checked yet; empty where there is none."""
        value = self._values.get(name)
        return value if isinstance(value, str) else ""

    def text(self, name: str, most: int) -> str:
        """A string of at most ``most`` characters."""
        value = self.any(name)
        if not isinstance(value, str) or len(value) > most:
            raise self._wrong(name, f"a string of at most {most} characters", value)
        return value

    def token(self, name: str) -> str:
        """32 lower-case hexadecimal digits."""
        return self._checked(name, self.any(name))

    def tokens(self, name: str, most: int) -> list[str]:
        """One or more different tokens."""
        value = self.entries(name, most)
        tokens = [self._checked(name, token) for token in value]
        if not tokens or len(set(tokens)) != len(tokens):
            raise self._wrong(name, "one or more different names", value)
        return tokens

    def number(self, name: str, least: int = 0, most: int = _MOST) -> int:
        """A whole number in [least, most]."""
        value = self.any(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, f"a whole number in {least}..{most}", value)
        return value

    def real(self, name: str, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number in [least, most]."""
        value = self.any(name)
        if not _is_real(value) or not least <= value <= most:
            raise self._wrong(name, f"a number in {least}..{most}", value)
        return float(value)

    def reals(self, name: str, count: int) -> list[float]:
        """``count`` finite numbers."""
        value = self.entries(name, count)
        if len(value) != count or not all(map(_is_real, value)):
            raise self._wrong(name, f"{count} numbers", value)
        return [float(number) for number in value]

    def texts(self, name: str, most: int) -> list[str]:
        """At most ``most`` short strings."""
        value = self.entries(name, most)
        if not all(isinstance(text, str) and len(text) <= 64 for text in value):
            raise self._wrong(name, "a list of short strings", value)
        return value

    def entries(self, name: str, most: int) -> list[Any]:
        """A list of at most ``most`` entries."""
        value = self.any(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, f"a list of at most {most}", value)
        return value

    def end(self) -> None:
        """Nothing may be left over."""
        if self._values:
            raise BridgeError(f"{self._what} has no such key", _short(sorted(self._values)), "leave it out")

    def _checked(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise self._wrong(name, "32 lower-case hexadecimal digits", value)
        return value

    def _wrong(self, name: str, wanted: str, value: Any) -> BridgeError:
        return BridgeError(f"{self._what} must have {name!r}: {wanted}", _short(value))


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    return repr(value)[:120]
