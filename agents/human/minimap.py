"""The path that was imagined, seen from above."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pygame

from worldsim.agents.human.branch import PlanarPose
from worldsim.agents.human.colours import DREAM, EDGE, FAINT, OTHER, REAL, TEXT, WELL, Colour, mix
from worldsim.agents.human.layout import Rect
from worldsim.agents.human.painter import Painter, Point
from worldsim.agents.human.player import WorldPlayer

LEAST_SPAN = 8.0  # metres
MOST_POINTS = 500  # of a path that are drawn
GRID = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class MapView:
    """Metres to pixels: what has to be seen fills the rectangle, x to the right, y upwards."""

    def __init__(self, rect: Rect, poses: Sequence[PlanarPose]) -> None:
        xs, ys = [pose[0] for pose in poses] or [0.0], [pose[1] for pose in poses] or [0.0]
        wide = max(max(xs) - min(xs), LEAST_SPAN) * 1.2
        high = max(max(ys) - min(ys), LEAST_SPAN) * 1.2
        self.pixels = max(min(rect.w / wide, rect.h / high), 1e-6)  # per metre
        self._centre = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        self._rect = rect
        self.grid = next((g for g in GRID if g * self.pixels >= 28), GRID[-1])

    def at(self, x: float, y: float) -> Point:
        """Window pixel of a point in metres."""
        return (
            self._rect.x + self._rect.w / 2 + (x - self._centre[0]) * self.pixels,
            self._rect.y + self._rect.h / 2 - (y - self._centre[1]) * self.pixels,
        )

    def lines(self) -> tuple[list[float], list[float]]:
        """x and y in metres of the grid lines that are in sight."""
        half = self._rect.w / self.pixels / 2, self._rect.h / self.pixels / 2
        return tuple(  # type: ignore[return-value]  # two of them
            [
                i * float(self.grid)
                for i in range(math.ceil((c - d) / self.grid), math.floor((c + d) / self.grid) + 1)
            ]
            for c, d in zip(self._centre, half, strict=True)
        )


def draw_map(painter: Painter, rect: Rect, player: WorldPlayer) -> None:
    """The paths of every future and of the real engine, with a grid and its scale."""
    painter.box(rect, WELL)
    real = player.reference.poses if player.reference is not None else []
    paths = [
        (real, REAL),
        *((branch.trajectory.poses, _colour(player, i)) for i, branch in enumerate(player.branches)),
    ]
    thinned = [(_thinned(path), colour) for path, colour in paths]
    known = [place for path, _ in thinned for place in path]
    if not known:
        painter.text(
            (rect.x + rect.w / 2, rect.y + rect.h / 2 - painter.px(8)),
            "this world has no poses",
            12,
            FAINT,
            0.5,
        )
        return
    inner = rect.inset(painter.px(3))
    painter.surface.set_clip(inner)
    view = MapView(inner, known)
    _grid(painter, inner, view)
    for path, colour in thinned:
        _path(painter, view, path, colour)
    painter.surface.set_clip(None)
    painter.text(
        (rect.x + rect.w - painter.px(8), rect.y + rect.h - painter.px(20)),
        f"{view.grid} m squares",
        11,
        FAINT,
        1.0,
    )


def _colour(player: WorldPlayer, branch: int) -> Colour:
    return OTHER if branch else DREAM


def _thinned(path: Sequence[PlanarPose | None]) -> list[PlanarPose]:
    known = [place for place in path if place is not None]
    every = max(len(known) // MOST_POINTS, 1)
    return known[:-1:every] + known[-1:]


def _grid(painter: Painter, rect: Rect, view: MapView) -> None:
    faint = mix(WELL, EDGE, 0.7)
    across, up = view.lines()
    for x in across:
        pygame.draw.line(
            painter.surface, faint, (view.at(x, 0)[0], rect.y), (view.at(x, 0)[0], rect.y + rect.h)
        )
    for y in up:
        pygame.draw.line(
            painter.surface, faint, (rect.x, view.at(0, y)[1]), (rect.x + rect.w, view.at(0, y)[1])
        )


def _path(painter: Painter, view: MapView, path: Sequence[PlanarPose], colour: Colour) -> None:
    if not path:
        return
    points = [view.at(x, y) for x, y, _ in path]
    for i in range(len(points) - 1):  # the past fades
        age = (len(points) - i) / 250
        pygame.draw.line(
            painter.surface,
            mix(colour, WELL, min(age, 0.65)),
            points[i],
            points[i + 1],
            max(painter.px(2), 1),
        )
    pygame.draw.aacircle(
        painter.surface, mix(colour, WELL, 0.3), points[0], painter.px(4), max(painter.px(2), 1)
    )
    _arrow(painter, points[-1], path[-1][2], colour)


def _arrow(painter: Painter, at: Point, yaw: float, colour: Colour) -> None:
    def corner(angle: float, far: float) -> Point:
        return at[0] + painter.px(far) * math.cos(yaw + angle), at[1] - painter.px(far) * math.sin(
            yaw + angle
        )

    shape = [corner(0, 10), corner(2.5, 8), corner(math.pi, 3), corner(-2.5, 8)]
    pygame.draw.polygon(painter.surface, colour, shape)
    pygame.draw.aalines(painter.surface, TEXT, True, shape)
