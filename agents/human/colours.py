"""The colours of the window, of videos and of contact sheets."""

from __future__ import annotations

Colour = tuple[int, int, int]

BACKGROUND: Colour = (13, 15, 19)
PANEL: Colour = (21, 24, 31)
WELL: Colour = (14, 16, 21)
EDGE: Colour = (38, 43, 54)
TEXT: Colour = (230, 233, 239)
DIM: Colour = (138, 147, 163)
FAINT: Colour = (84, 92, 108)

DREAM: Colour = (84, 209, 194)
OTHER: Colour = (178, 148, 244)
REAL: Colour = (246, 178, 96)
GOOD: Colour = (112, 206, 132)
BAD: Colour = (242, 110, 110)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """A colour that is ``share`` (0 to 1) of the way from ``a`` to ``b``."""
    share = min(max(share, 0.0), 1.0)
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )
