"""Checks for a screen and for pygame."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping

from worldsim.errors import DependencyError, install

REMEDY = install("play")


class NoDisplay(Exception):  # noqa: N818 - not a fault, a fact
    """There is no screen to open a window on."""


def has_display(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Return True if a window may be opened: Linux and the BSDs need a named display server.

    A given SDL_VIDEODRIVER counts as a display.
    """
    if environ.get("SDL_VIDEODRIVER"):
        return True
    if platform in ("darwin", "win32"):
        return True
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def check_pygame() -> str | None:
    """None if all is well, or a warning. Raises DependencyError without pygame."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # stdout belongs to the figures
    try:
        import pygame
    except ImportError as error:
        raise DependencyError("the window is drawn by pygame-ce", str(error), REMEDY) from error
    anew = "pip uninstall pygame pygame-ce, then " + REMEDY
    if not getattr(pygame, "IS_CE", False):
        raise DependencyError("the window is drawn by pygame-ce", f"pygame {pygame.version.ver}", anew)
    if _installed("pygame") and _installed("pygame-ce"):
        return "pygame and pygame-ce are both installed and overwrite each other: " + anew
    return None


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_driver(driver: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raises NoDisplay where SDL, finding no screen, silently chose one that nobody can see."""
    if driver in ("dummy", "offscreen") and environ.get("SDL_VIDEODRIVER") != driver:
        raise NoDisplay(f"SDL found no screen and offered its {driver!r} driver")
