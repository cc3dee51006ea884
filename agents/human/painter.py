"""Drawing with pygame: letters in one typeface, rounded cards, key caps."""

from __future__ import annotations

import numpy as np
import pygame

from worldsim.agents.human.captions import lettering, text_width
from worldsim.agents.human.colours import DIM, EDGE, PANEL, TEXT, WELL, Colour
from worldsim.agents.human.layout import Rect

Point = tuple[float, float]


class TextCache:
    """The lines of text that were drawn lately.

    Pillow draws them: its typeface looks alike on every machine.
    """

    MOST = 600  # lines kept

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int, Colour], pygame.Surface] = {}

    def line(self, text: str, size: int, colour: Colour) -> pygame.Surface:
        """A line of text on a transparent ground."""
        key = (text, size, colour)
        if key not in self._lines:
            if len(self._lines) >= self.MOST:
                self._lines.clear()
            letters = lettering(text, size)
            pixels = np.empty((*letters.shape, 4), np.uint8)
            pixels[..., :3], pixels[..., 3] = colour, letters
            self._lines[key] = pygame.image.frombytes(pixels.tobytes(), letters.shape[::-1], "RGBA")
        return self._lines[key]


class Painter:
    """Draws on a surface at an interface scale; sizes are given as at scale 1."""

    def __init__(self, surface: pygame.Surface, ui: float, texts: TextCache) -> None:
        self.surface = surface
        self._texts = texts
        self.ui = ui

    def at_scale(self, ui: float) -> Painter:
        """A painter for the same surface with another interface scale."""
        return Painter(self.surface, ui, self._texts)

    def px(self, size: float) -> int:
        """Window pixels of a size at scale 1."""
        return round(size * self.ui)

    def text(
        self,
        at: Point,
        text: str,
        size: float = 14,
        colour: Colour = TEXT,
        align: float = 0.0,
    ) -> int:
        """Write a line whose top is at ``at``; align 0 begins there, 0.5 is centred, 1 ends there.

        Returns its width in pixels.
        """
        line = self._texts.line(text, self.px(size), colour)
        self.surface.blit(line, (round(at[0] - align * line.get_width()), round(at[1])))
        return line.get_width()

    def width(self, text: str, size: float = 14) -> int:
        """Pixels that a line recordings."""
        return text_width(text, self.px(size))

    def wrapped(self, text: str, width: int, size: float = 14) -> list[str]:
        """The text in lines of at most ``width`` pixels."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.width(longer, size) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    def box(self, rect: Rect, fill: Colour = PANEL, edge: Colour | None = EDGE, radius: float = 10) -> None:
        """A card with rounded corners."""
        pygame.draw.rect(self.surface, fill, rect, border_radius=self.px(radius))
        if edge is not None:
            pygame.draw.rect(self.surface, edge, rect, max(self.px(1), 1), border_radius=self.px(radius))

    def cap(
        self, at: Point, label: str, lit: Colour | None = None, least: float = 22, height: float = 22
    ) -> int:
        """A key cap, lit in a colour or dark. Returns its width in pixels."""
        w = max(self.width(label, 12) + self.px(12), self.px(least))
        rect = Rect(round(at[0]), round(at[1]), w, self.px(height))
        self.box(rect, lit or WELL, lit or EDGE, 5)
        colour = WELL if lit else DIM
        self.text((rect.x + w / 2, rect.y + (rect.h - self.px(15)) / 2), label, 12, colour, 0.5)
        return w

    def dim(self, window: tuple[int, int], share: int) -> None:
        """Darken the whole window; share 255 is black."""
        veil = pygame.Surface(window, pygame.SRCALPHA)
        veil.fill((6, 7, 10, share))
        self.surface.blit(veil, (0, 0))

    def dot(self, at: Point, radius: float, colour: Colour) -> None:
        """A filled circle."""
        pygame.draw.aacircle(self.surface, colour, at, self.px(radius))
