"""Pictures that leave the program: frames scaled with crisp pixels, put side by side, with captions.

NumPy and Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldsim.agents.human.colours import BACKGROUND, DIM, Colour


@cache
def typeface(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The typeface that Pillow brings along, so that text looks alike everywhere."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Pixels that a line recordings."""
    return math.ceil(typeface(size).getlength(text))


def lettering(text: str, size: int) -> np.ndarray:
    """A line of text as uint8 [height, width], 0 for the ground and 255 for ink."""
    picture = Image.new("L", (max(text_width(text, size), 1), math.ceil(1.3 * size)))
    ImageDraw.Draw(picture).text((0, 0), text, fill=255, font=typeface(size))
    return np.array(picture)


def crisp(frame: np.ndarray, scale: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [H * scale, W * scale, 3], each pixel a square."""
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


def side_by_side(
    frames: Sequence[np.ndarray],
    titles: Sequence[tuple[str, Colour]],
    scale: int,
    gap: int = 8,
    line: int = 22,
) -> np.ndarray:
    """Frames of one size in a row, each under its title: uint8 [line + H * scale, width, 3], both even."""
    h, w = frames[0].shape[0] * scale, frames[0].shape[1] * scale
    width = len(frames) * w + (len(frames) - 1) * gap
    canvas = np.full((_even(line + h), _even(width), 3), BACKGROUND, np.uint8)
    for i, frame in enumerate(frames):
        canvas[line : line + h, i * (w + gap) : i * (w + gap) + w] = crisp(frame, scale)
    return _written(canvas, [((i * (w + gap) + 4, 3), *title) for i, title in enumerate(titles)], line - 9)


def sheet(
    columns: Sequence[tuple[str, Sequence[np.ndarray]]],
    rows: Sequence[tuple[str, Colour]],
    across: int = 8,
    scale: int = 1,
) -> np.ndarray:
    """A contact sheet, uint8 [H, W, 3]: each column a caption over its frames, ``across`` columns to a band,
    rows named at the left.
    """
    h, w = (side * scale for side in columns[0][1][0].shape[:2])
    gap, line, margin = 4, 18, 64
    band = line + len(rows) * (h + gap) + 10
    bands = [columns[i : i + across] for i in range(0, len(columns), across)]
    canvas = np.full(
        (len(bands) * band + gap, margin + min(across, len(columns)) * (w + gap) + gap, 3),
        BACKGROUND,
        np.uint8,
    )
    words: list[tuple[tuple[int, int], str, Colour]] = []
    for b, members in enumerate(bands):
        top = b * band + gap
        words += [((8, top + line + r * (h + gap) + h // 2 - 8), *row) for r, row in enumerate(rows)]
        for c, (caption, frames) in enumerate(members):
            left = margin + c * (w + gap)
            words.append(((left + 2, top + 2), caption, DIM))
            for r, frame in enumerate(frames):
                y = top + line + r * (h + gap)
                canvas[y : y + h, left : left + w] = crisp(frame, scale)
    return _written(canvas, words, 12)


def _written(
    canvas: np.ndarray, words: Sequence[tuple[tuple[int, int], str, Colour]], size: int
) -> np.ndarray:
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for at, text, colour in words:
        draw.text(at, text, fill=colour, font=typeface(size))
    return np.array(picture)


def _even(n: int) -> int:
    return n + n % 2
