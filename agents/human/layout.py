"""Layout of a window of a given size. Plain arithmetic: no pygame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class Rect(NamedTuple):
    """A rectangle in window pixels, y downwards."""

    x: int
    y: int
    w: int
    h: int

    def inset(self, by: int) -> Rect:
        """The rectangle within, ``by`` pixels from each side."""
        return Rect(self.x + by, self.y + by, max(self.w - 2 * by, 0), max(self.h - 2 * by, 0))


@dataclass(frozen=True)
class WindowLayout:
    """``pictures`` hold the frames at ``scale`` window pixels a frame pixel; ``panel`` is None where it is
    hidden.
    """

    pictures: tuple[Rect, ...]
    panel: Rect | None
    upright: bool
    footer: Rect
    scale: float


MARGIN, TITLE, FOOTER = 16, 28, 34  # at interface scale 1
PANEL_WIDTH, PANEL_HEIGHT = 308, 196
LEAST_HEIGHT = 620  # of a comfortable window: all cards fit beside a small picture


def interface_scale(window: tuple[int, int]) -> float:
    """Scale of letters and lines, 0.8 to 2.5, in steps of a tenth.

    They grow more slowly than the window, so that most of a large one is picture.
    """
    share = min(window[0] / 1120, window[1] / 670)
    return min(max(math.floor(share**0.6 * 10) / 10, 0.8), 2.5)


def arrange(
    window: tuple[int, int], frame: tuple[int, int], count: int, panel: bool, whole: bool
) -> WindowLayout:
    """The layout that shows ``count`` frames of ``frame`` = (height, width) largest.

    The panel stands at the right or lies below, whichever leaves the pictures more room. ``whole``: frame
    pixels are a whole number of window pixels wherever that is two or more.
    """
    ui = interface_scale(window)
    margin, footer = round(MARGIN * ui), round(FOOTER * ui)
    inner = Rect(margin, margin, max(window[0] - 2 * margin, 1), max(window[1] - margin - footer, 1))
    choices = []
    for upright in (True, False) if panel else (True,):
        stage, side = _split(inner, upright, ui, margin) if panel else (inner, None)
        pictures, scale = _place(stage, frame, count, whole, round(TITLE * ui), margin)
        choices.append(
            WindowLayout(pictures, side, upright, Rect(margin, window[1] - footer, inner.w, footer), scale)
        )
    return max(choices, key=lambda layout: layout.scale)


def window_size(frame: tuple[int, int], scale: int) -> tuple[int, int]:
    """(width, height) of a window that shows one picture at ``scale`` with the panel at its right."""
    size = (0, 0)
    for tenths in range(8, 26):  # the panel grows with the window, so the window has to allow for that
        ui = tenths / 10
        width = frame[1] * scale + math.ceil((PANEL_WIDTH + 3 * MARGIN + 3) * ui)
        high = math.ceil((MARGIN + TITLE + FOOTER + 3) * ui)
        size = (width, max(frame[0] * scale + high, math.ceil(LEAST_HEIGHT * ui)))
        if interface_scale(size) <= ui:
            break
    return size


def _split(inner: Rect, upright: bool, ui: float, margin: int) -> tuple[Rect, Rect]:
    if upright:
        w = min(round(PANEL_WIDTH * ui), inner.w // 2)
        stage = Rect(inner.x, inner.y, inner.w - w - margin, inner.h)
        return stage, Rect(inner.x + inner.w - w, inner.y, w, inner.h)
    h = min(round(PANEL_HEIGHT * ui), inner.h // 2)
    stage = Rect(inner.x, inner.y, inner.w, inner.h - h - margin)
    return stage, Rect(inner.x, inner.y + inner.h - h, inner.w, h)


def _place(
    stage: Rect, frame: tuple[int, int], count: int, whole: bool, title: int, gap: int
) -> tuple[tuple[Rect, ...], float]:
    """The pictures in the grid in which they are largest, centred on the stage, with room for a title above
    each.
    """
    across, scale = max(
        (
            (columns, _fit(stage, frame, columns, math.ceil(count / columns), title, gap))
            for columns in range(1, count + 1)
        ),
        key=lambda choice: choice[1],
    )
    if whole and scale >= 2:
        scale = math.floor(scale)
    h, w = max(int(frame[0] * scale), 1), max(int(frame[1] * scale), 1)
    down = math.ceil(count / across)
    left = stage.x + (stage.w - across * w - (across - 1) * gap) // 2
    top = stage.y + (stage.h - down * (h + title) - (down - 1) * gap) // 2 + title
    places = [
        (left + (i % across) * (w + gap), top + (i // across) * (h + title + gap)) for i in range(count)
    ]
    return tuple(Rect(x, y, w, h) for x, y in places), scale


def _fit(stage: Rect, frame: tuple[int, int], columns: int, rows: int, title: int, gap: int) -> float:
    wide = (stage.w - (columns - 1) * gap) / (columns * frame[1])
    high = (stage.h - rows * title - (rows - 1) * gap) / (rows * frame[0])
    return max(min(wide, high), 0.05)
