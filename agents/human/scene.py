"""The whole window at a moment: pictures, panel, hints."""

from __future__ import annotations

import pygame

from worldsim.agents.human.colours import BACKGROUND, BAD, DIM, EDGE, FAINT, TEXT, mix
from worldsim.agents.human.help import hints
from worldsim.agents.human.hud import Status, draw_panel
from worldsim.agents.human.layout import Layout, Rect
from worldsim.agents.human.pen import Pen
from worldsim.agents.human.player import Player
from worldsim.agents.human.tiles import Tile, tiles

RECORDING = 110  # width at the right of the foot that is kept for it, at interface scale 1


def draw_scene(pen: Pen, layout: Layout, player: Player, status: Status) -> None:
    """Everything but toasts and help."""
    pen.surface.fill(BACKGROUND)
    shown = tiles(player)
    for tile, rect in zip(shown, layout.pictures, strict=True):
        _picture(pen, rect, tile, alone=len(shown) == 1)
    if layout.panel is not None:
        draw_panel(pen, layout.panel, layout.upright, player, status)


def _picture(pen: Pen, rect: Rect, tile: Tile, alone: bool) -> None:
    surface = pygame.image.frombytes(tile.frame.tobytes(), tile.frame.shape[1::-1], "RGB")
    pen.surface.blit(pygame.transform.scale(surface, (rect.w, rect.h)), (rect.x, rect.y))
    lit = tile.steered and not alone
    edge = Rect(rect.x - 1, rect.y - 1, rect.w + 2, rect.h + 2)
    pygame.draw.rect(pen.surface, tile.colour if lit else EDGE, edge, 1)
    y = rect.y - pen.px(24)
    pen.dot((rect.x + pen.px(6), y + pen.px(10)), 4, tile.colour)
    x = rect.x + pen.px(17)
    x += pen.text((x, y), tile.title, 15, TEXT if tile.steered or alone else mix(DIM, TEXT, 0.5))
    pen.text((x + pen.px(10), y + pen.px(2)), tile.remark, 13, DIM)


def draw_hints(pen: Pen, footer: Rect, status: Status) -> None:
    """The most wanted keys along the window's foot, as many as there is room for."""
    x, y = footer.x, footer.y + pen.px(8)
    for key, text in hints(status.keymap):
        need = pen.width(key, 11) + pen.width(text, 12) + pen.px(28)
        if x + need > footer.x + footer.w - pen.px(RECORDING):
            return
        x += pen.text((x, y), key, 11, DIM) + pen.px(6)
        x += pen.text((x, y - pen.px(1)), text, 12, FAINT) + pen.px(18)


def draw_recording(pen: Pen, footer: Rect, frames: int) -> None:
    """A red dot at the right of the window's foot, and how much is recorded."""
    right, y = footer.x + footer.w, footer.y + pen.px(7)
    width = pen.text((right, y), f"{frames} frames", 12, DIM, 1.0)
    pen.dot((right - width - pen.px(12), y + pen.px(8)), 5, BAD)


def draw_splash(pen: Pen, window: tuple[int, int], text: str) -> None:
    """What is shown while a world is loaded."""
    pen.surface.fill(BACKGROUND)
    middle = window[0] / 2, window[1] / 2
    pen.surface.blit(icon(pen.px(64)), (middle[0] - pen.px(32), middle[1] - pen.px(70)))
    pen.text((middle[0], middle[1] + pen.px(14)), text, 16, DIM, 0.5)


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
