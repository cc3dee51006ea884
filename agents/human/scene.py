"""The whole window at a moment: pictures, panel, hints."""

from __future__ import annotations

import pygame

from worldsim.agents.human.colours import BACKGROUND, BAD, DIM, EDGE, FAINT, TEXT, mix
from worldsim.agents.human.help import hints
from worldsim.agents.human.hud import Status, draw_panel
from worldsim.agents.human.layout import Rect, WindowLayout
from worldsim.agents.human.painter import Painter
from worldsim.agents.human.panes import Pane, panes
from worldsim.agents.human.player import WorldPlayer

RECORDING = 110  # width at the right of the foot that is kept for it, at interface scale 1


def draw_scene(painter: Painter, layout: WindowLayout, player: WorldPlayer, status: Status) -> None:
    """Everything but toasts and help."""
    painter.surface.fill(BACKGROUND)
    shown = panes(player)
    for pane, rect in zip(shown, layout.pictures, strict=True):
        _picture(painter, rect, pane, alone=len(shown) == 1)
    if layout.panel is not None:
        draw_panel(painter, layout.panel, layout.upright, player, status)


def _picture(painter: Painter, rect: Rect, pane: Pane, alone: bool) -> None:
    surface = pygame.image.frombytes(pane.frame.tobytes(), pane.frame.shape[1::-1], "RGB")
    painter.surface.blit(pygame.transform.scale(surface, (rect.w, rect.h)), (rect.x, rect.y))
    lit = pane.steered and not alone
    edge = Rect(rect.x - 1, rect.y - 1, rect.w + 2, rect.h + 2)
    pygame.draw.rect(painter.surface, pane.colour if lit else EDGE, edge, 1)
    y = rect.y - painter.px(24)
    painter.dot((rect.x + painter.px(6), y + painter.px(10)), 4, pane.colour)
    x = rect.x + painter.px(17)
    x += painter.text((x, y), pane.title, 15, TEXT if pane.steered or alone else mix(DIM, TEXT, 0.5))
    painter.text((x + painter.px(10), y + painter.px(2)), pane.remark, 13, DIM)


def draw_hints(painter: Painter, footer: Rect, status: Status) -> None:
    """The most wanted keys along the window's foot, as many as there is room for."""
    x, y = footer.x, footer.y + painter.px(8)
    for key, text in hints(status.keymap):
        need = painter.width(key, 11) + painter.width(text, 12) + painter.px(28)
        if x + need > footer.x + footer.w - painter.px(RECORDING):
            return
        x += painter.text((x, y), key, 11, DIM) + painter.px(6)
        x += painter.text((x, y - painter.px(1)), text, 12, FAINT) + painter.px(18)


def draw_recording(painter: Painter, footer: Rect, frames: int) -> None:
    """A red dot at the right of the window's foot, and how much is recorded."""
    right, y = footer.x + footer.w, footer.y + painter.px(7)
    width = painter.text((right, y), f"{frames} frames", 12, DIM, 1.0)
    painter.dot((right - width - painter.px(12), y + painter.px(8)), 5, BAD)


def draw_splash(painter: Painter, window: tuple[int, int], text: str) -> None:
    """Draw the window while a world is loaded."""
    painter.surface.fill(BACKGROUND)
    middle = window[0] / 2, window[1] / 2
    painter.surface.blit(icon(painter.px(64)), (middle[0] - painter.px(32), middle[1] - painter.px(70)))
    painter.text((middle[0], middle[1] + painter.px(14)), text, 16, DIM, 0.5)


def icon(size: int) -> pygame.Surface:
    """A corridor that leads into the light."""
    surface = pygame.Surface((size, size), pygame.SRCALPHA)
    for i in range(6):
        share = i / 5
        side = round(size * (1 - 0.82 * share**0.7))
        rect = pygame.Rect((size - side) // 2, (size - side) // 2, side, side)
        pygame.draw.rect(
            surface, mix((24, 42, 52), (150, 240, 224), share), rect, border_radius=max(side // 8, 1)
        )
    return surface
