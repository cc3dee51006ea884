"""A plain window that shows frames: the environments' "human" render mode."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from worldsim.errors import DependencyError, install

__all__ = ["Viewer"]

_WIDTH = 640
"""Frames are scaled by the whole number that brings them closest to this many pixels of width."""


class Viewer:
    """A pygame window with crisp pixels, paced to ``fps`` frames a second. It opens with the first frame.

    Raises:
        DependencyError: pygame is not installed.
    """

    def __init__(self, title: str, fps: int) -> None:
        self._pygame = _pygame()
        self._title, self._fps = title, fps
        self._clock = self._pygame.time.Clock()
        self._screen: Any = None

    def show(self, frame: np.ndarray) -> None:
        """Show ``frame``, uint8 [H, W, 3], and wait until the next one is due."""
        pygame = self._pygame
        height, width = frame.shape[:2]
        scale = max(1, round(_WIDTH / width))
        if self._screen is None:
            pygame.display.init()
            self._screen = pygame.display.set_mode((width * scale, height * scale))
            pygame.display.set_caption(self._title)
        surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self._screen.blit(pygame.transform.scale_by(surface, scale), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window; may be called again."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None


def _pygame() -> ModuleType:
    try:
        import pygame
    except ModuleNotFoundError as error:
        raise DependencyError("render_mode 'human' needs pygame", None, install("play")) from error
    return pygame
