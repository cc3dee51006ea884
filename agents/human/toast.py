"""Short messages that come and go."""

from __future__ import annotations

from worldsim.agents.human.colours import BAD, DREAM, GOOD, PANEL, TEXT, mix
from worldsim.agents.human.layout import Rect
from worldsim.agents.human.painter import Painter
from worldsim.agents.human.player import Notice

COLOURS = {"info": DREAM, "good": GOOD, "bad": BAD}
SECONDS, SECONDS_A_LETTER, FADE = 1.6, 0.045, 0.35


class Toast:
    """The newest notice, for as long as it takes to read it."""

    def __init__(self) -> None:
        self._notice: Notice | None = None
        self._until = 0.0

    def show(self, notice: Notice, now: float) -> None:
        """Show this one from now on."""
        self._notice = notice
        self._until = now + SECONDS + SECONDS_A_LETTER * len(notice.text)

    def draw(self, painter: Painter, footer: Rect, now: float) -> bool:
        """Draw it at the foot of the window, growing upwards where it is long.

        False if there is nothing to say.
        """
        if self._notice is None or now >= self._until:
            return False
        share = min((self._until - now) / FADE, 1.0)
        colour = COLOURS[self._notice.kind]
        lines = painter.wrapped(self._notice.text, footer.w - painter.px(44), 13)
        wide = max(painter.width(line, 13) for line in lines) + painter.px(38)
        tall = painter.px(19) * len(lines) + painter.px(7)
        rect = Rect(footer.x, footer.y + footer.h - tall - painter.px(4), wide, tall)
        painter.box(
            rect, mix(PANEL, mix(PANEL, colour, 0.14), share), mix(PANEL, mix(PANEL, colour, 0.55), share), 8
        )
        painter.dot((rect.x + painter.px(14), rect.y + painter.px(13)), 4, mix(PANEL, colour, share))
        for i, line in enumerate(lines):
            at = rect.x + painter.px(26), rect.y + painter.px(4 + 19 * i)
            painter.text(at, line, 13, mix(PANEL, TEXT, share))
        return True
