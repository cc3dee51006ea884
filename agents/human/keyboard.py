"""Keys by their place on the keyboard, called as on a US layout: WASD is where it is on every layout."""

from __future__ import annotations

from collections.abc import Container
from functools import cache

import pygame


class Keyboard:
    """Names of the keys that pygame's events are about.

    A key is named by its place (its scancode). One whose place means nothing here is named by its label, as
    the layout in force has it. It comes up under the name that it went down under, whatever the layout is by
    then.
    """

    def __init__(self) -> None:
        self._down: dict[int, str] = {}

    def pressed(self, event: pygame.event.Event, bound: Container[str]) -> str:
        """The name of the key that went down; ``bound`` are the names that do something."""
        place, label = _places().get(_scancode(event)), pygame.key.name(event.key)
        name = label if place is None or (place not in bound and label in bound) else place
        self._down[_identity(event)] = name
        return name

    def released(self, event: pygame.event.Event) -> str:
        """The name of the key that came up."""
        place = _places().get(_scancode(event))
        return self._down.pop(_identity(event), None) or place or pygame.key.name(event.key)

    def let_go(self) -> None:
        """Forget what is down."""
        self._down.clear()


def _scancode(event: pygame.event.Event) -> int:
    return int(getattr(event, "scancode", 0))


def _identity(event: pygame.event.Event) -> int:
    """The key itself: its place, or what it stands for where the place is not known."""
    return _scancode(event) or -int(event.key)


@cache
def _places() -> dict[int, str]:
    """Scancode -> the key's name on a US layout."""
    names: dict[int, str] = {}
    for constant in dir(pygame):
        if constant.startswith("KSCAN_"):
            suffix = constant.removeprefix("KSCAN_")
            key = getattr(pygame, f"K_{suffix.lower() if len(suffix) == 1 else suffix}", None)
            if key is not None and (name := pygame.key.name(key)):
                names.setdefault(getattr(pygame, constant), name)
    names.pop(pygame.KSCAN_UNKNOWN, None)
    return names
