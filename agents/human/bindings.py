"""Default keys of the keyboard for the keys of any world."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

__all__ = ["USUAL", "bind"]

USUAL: dict[str, tuple[str, ...]] = {
    "forward": ("w", "up"),
    "up": ("w", "up"),
    "gas": ("w", "up"),
    "backward": ("s", "down"),
    "down": ("s", "down"),
    "brake": ("s", "down"),
    "strafe_left": ("a",),
    "strafe_right": ("d",),
    "turn_left": ("left", "q"),
    "turn_right": ("right", "e"),
    "left": ("a", "left"),
    "right": ("d", "right"),
    "fire": ("left ctrl",),
    "jump": ("v",),
}
"""A world's key, and the keyboard's keys that suggest themselves for it."""

_DIRECTIONS: dict[str, tuple[str, str]] = {
    "left": ("left", "a"), "right": ("right", "d"), "up": ("up", "w"), "down": ("down", "s")
}  # fmt: skip
_WORDS = {
    "left": ("left", "west", "anticlockwise", "counterclockwise"),
    "right": ("right", "east", "clockwise"),
    "up": ("up", "north", "forward", "forwards", "gas", "accelerate", "throttle", "thrust", "main"),
    "down": ("down", "south", "back", "backward", "backwards", "brake", "reverse"),
}
"""Words in the names of a world's keys, and where they point."""
_ENDS = re.compile(r"(.+)_(minus|plus)")
_PAIRS = (("left", "right"), ("down", "up"))
"""Directions of the low and the high end of an axis: of the first axis, then of the second."""
_OTHERS = ("q", "e")
_SPARE = tuple("zvuijklyto67890")


def bind(names: Sequence[str], taken: Container[str]) -> dict[str, str]:
    """Keyboard key -> the world's key.

    Usual names come first, then directions in a name ("fly_left"), then the ends of axes ("axis0_minus",
    "axis0_plus" steer left and right, those of the next axis down and up), then what is left of the arrows
    and WASD, and at last spare letters, as many as there are.

    Args:
        names: the world's keys.
        taken: keyboard keys that spare letters must not be.
    """
    free = _Free()
    for name in names:
        free.take(name, USUAL.get(name, ()), some=True)
    for name in names:
        if name not in free.bound.values():
            free.take(name, _keys_in(name), some=True)
    _bind_axes([name for name in names if name not in free.bound.values()], free)
    for name in names:
        if name not in free.bound.values():
            free.take_first(name, [_DIRECTIONS[way] for way in ("up", "left", "down", "right")])
    for name in names:
        if name not in free.bound.values():
            free.take_first(name, [(key,) for key in _SPARE if key not in taken])
    return free.bound


class _Free:
    """Keyboard keys that are given out, each once."""

    def __init__(self) -> None:
        self.bound: dict[str, str] = {}

    def take(self, name: str, keys: Sequence[str], *, some: bool = False) -> bool:
        """Give ``keys`` to ``name``: all of them, or with ``some`` those that are free. False: none."""
        left = [key for key in keys if key not in self.bound]
        if not left or (len(left) < len(keys) and not some):
            return False
        self.bound.update(dict.fromkeys(left, name))
        return True

    def take_first(self, name: str, choices: Sequence[Sequence[str]]) -> bool:
        """Give the first of the ``choices`` that is wholly free."""
        return any(self.take(name, keys) for keys in choices)


def _keys_in(name: str) -> tuple[str, ...]:
    """Keys that a name suggests: ``key_x`` is the key itself, other words name a direction."""
    words = name.lower().split("_")
    if len(words) == 2 and words[0] == "key" and len(words[1]) == 1 and words[1].isascii():
        return (words[1],)
    found = {way for way, known in _WORDS.items() if set(words) & set(known)}
    return _DIRECTIONS[found.pop()] if len(found) == 1 else ()


def _bind_axes(names: Sequence[str], free: _Free) -> None:
    """Point the ends of an axis in opposite directions; an axis with one end points up, the next one down."""
    ends: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _ENDS.fullmatch(name):
            ends.setdefault(match[1], {})[match[2]] = name
    for axis in ends.values():
        if len(axis) == 2:
            pairs = [(_DIRECTIONS[low], _DIRECTIONS[high]) for low, high in _PAIRS]
            for minus, plus in [*pairs, tuple((key,) for key in _OTHERS)]:
                if not {*minus, *plus} & free.bound.keys():
                    free.take(axis["minus"], minus), free.take(axis["plus"], plus)
                    break
    for axis in ends.values():
        if len(axis) == 1:
            (name,) = axis.values()
            free.take_first(name, [_DIRECTIONS[way] for way in ("up", "down")])
