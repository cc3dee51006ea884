"""The panel beside the picture: what is walked, how fast, where, and who steers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pygame

from worldsim.agents.human.colours import (
    BAD,
    DIM,
    DREAM,
    EDGE,
    FAINT,
    GOOD,
    OTHER,
    PANEL,
    REAL,
    TEXT,
    WELL,
    Colour,
    mix,
)
from worldsim.agents.human.keymap import Keymap
from worldsim.agents.human.layout import Rect
from worldsim.agents.human.minimap import draw_map
from worldsim.agents.human.painter import Painter
from worldsim.agents.human.player import STEERED_BY, WorldPlayer

GAP, PAD = 10, 14  # at interface scale 1
LOST = (
    0.65  # a uncertainty that means three metres off in a usual picture, or one that has little of its past
)
ORDER = ("turn_left", "forward", "turn_right", "strafe_left", "backward", "strafe_right")


@dataclass(frozen=True)
class Status:
    """State of the window beside its player: ``fps`` is the requested frame rate, 0 for none."""

    fps: float
    keymap: Keymap
    rewinding: bool = False
    recorded: int | None = None
    mouse: bool = False


Draw = Callable[[Painter, Rect, WorldPlayer, Status], None]


def draw_panel(painter: Painter, rect: Rect, upright: bool, player: WorldPlayer, status: Status) -> None:
    """Cards below each other, or side by side where the panel lies below the pictures."""
    gap = painter.px(GAP)
    if upright:
        _stack(painter, rect, player, status, _fitting(rect.h, painter))
        return
    wide = painter.px(270)
    left = Rect(rect.x, rect.y, wide, rect.h)
    _stack(painter, left, player, status, [(_heading, 64), (_speed, 0)])
    rest = [card for card in (_facts, draw_keys, _map) if card is not draw_keys or rect.w > painter.px(900)]
    each = (rect.w - wide - len(rest) * gap) // len(rest)
    for i, card in enumerate(rest):
        card(painter, Rect(rect.x + wide + gap + i * (each + gap), rect.y, each, rect.h), player, status)


def _fitting(height: int, painter: Painter) -> list[tuple[Draw, int]]:
    """The cards that there is room for, with their heights; height 0 takes the rest."""
    cards: list[tuple[Draw, int]] = [
        (_heading, 64),
        (_speed, 132),
        (_map, 0),
        (_facts, 171),
        (draw_keys, 118),
    ]
    for dropped in (draw_keys, _map, _speed):
        needed = sum((h or 110) + GAP for _, h in cards) - GAP
        if painter.px(needed) <= height:
            break
        cards = [card for card in cards if card[0] is not dropped]
    return cards


def _stack(
    painter: Painter, rect: Rect, player: WorldPlayer, status: Status, cards: list[tuple[Draw, int]]
) -> None:
    gap = painter.px(GAP)
    rest = rect.h - sum(painter.px(h) for _, h in cards) - gap * (len(cards) - 1)
    y = rect.y
    for draw, h in cards:
        high = painter.px(h) if h else rest
        draw(painter, Rect(rect.x, y, rect.w, high), player, status)
        y += high + gap


def _heading(painter: Painter, rect: Rect, player: WorldPlayer, status: Status) -> None:
    painter.box(rect)
    x, y = rect.x + painter.px(PAD), rect.y + painter.px(10)
    painter.text((x, y), player.world.name, 19, TEXT)
    text, colour = _state(player, status)
    right = rect.x + rect.w - painter.px(PAD)
    width = painter.width(text, 11) + painter.px(16)
    chip = Rect(right - width, y + painter.px(3), width, painter.px(20))
    painter.box(chip, mix(PANEL, colour, 0.16), mix(PANEL, colour, 0.5), 10)
    painter.text((chip.x + width / 2, chip.y + painter.px(3)), text, 11, colour, 0.5)
    world = player.world
    dtype = str(world.dtype).removeprefix("torch.")
    painter.text(
        (x, y + painter.px(26)), f"{_count(world.params)} parameters · {world.device} · {dtype}", 12, DIM
    )


def _state(player: WorldPlayer, status: Status) -> tuple[str, Colour]:
    if status.rewinding:
        return "going back", OTHER
    if player.paused:
        return "paused", REAL
    if player.waiting:
        return "catching up", REAL
    return "walking", DREAM


def _count(n: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.1f}{letter}"
    return str(n)


def _speed(painter: Painter, rect: Rect, player: WorldPlayer, status: Status) -> None:
    painter.box(rect)
    x, y, right = rect.x + painter.px(PAD), rect.y + painter.px(10), rect.x + rect.w - painter.px(PAD)
    stats = player.stats
    width = painter.text((x, y), f"{stats.loop_fps:.1f}", 28, TEXT)
    pace = f"of {status.fps:g} fps" if status.fps else "fps, no limit"
    painter.text((x + width + painter.px(7), y + painter.px(13)), pace, 12, DIM)
    at = float(right)
    asked, drawn = player.engine.denoising_steps, min(player.drawn_steps, player.engine.denoising_steps)
    for k in reversed(player.world.allowed_denoising_steps):
        at -= painter.px(24)
        colour = REAL if k == drawn != asked else DREAM if k == asked else None
        painter.cap((at, y + painter.px(7)), str(k), colour)
        at -= painter.px(4)
    painter.text((at - painter.px(4), y + painter.px(10)), "K", 12, DIM, 1.0)
    foot = rect.y + rect.h - painter.px(26)
    _timings(
        painter,
        Rect(x, y + painter.px(44), right - x, max(foot - y - painter.px(52), 1)),
        stats.recent_ms,
        status.fps,
    )
    painter.text((x, foot), "step", 12, DIM)
    at = float(right)
    for label, p in (("p99", 99), ("p50", 50)):
        at -= painter.text((at, foot), f"{stats.percentile(p):.1f} ms", 12, TEXT, 1.0) + painter.px(6)
        at -= painter.text((at, foot), label, 12, DIM, 1.0) + painter.px(16)


def _timings(painter: Painter, rect: Rect, times: list[float], fps: float) -> None:
    """A bar for each recent step, against the time that the pace leaves for it."""
    budget = 1000.0 / fps if fps else 0.0
    shown = times[-max(rect.w // painter.px(3), 1) :]
    top = max(1.15 * budget, *shown, 1.0) if shown else max(budget, 1.0)
    pygame.draw.line(painter.surface, EDGE, (rect.x, rect.y + rect.h), (rect.x + rect.w, rect.y + rect.h))
    for i, ms in enumerate(shown):
        high = max(round(rect.h * min(ms / top, 1.0)), 1)
        colour = BAD if budget and ms > budget else mix(PANEL, DREAM, 0.65)
        left = rect.x + rect.w - (len(shown) - i) * painter.px(3)
        pygame.draw.rect(painter.surface, colour, (left, rect.y + rect.h - high, max(painter.px(2), 1), high))
    if budget:
        y = rect.y + rect.h - round(rect.h * budget / top)
        pygame.draw.line(painter.surface, mix(PANEL, REAL, 0.5), (rect.x, y), (rect.x + rect.w, y))


def _map(painter: Painter, rect: Rect, player: WorldPlayer, status: Status) -> None:
    draw_map(painter, rect, player)


def _facts(painter: Painter, rect: Rect, player: WorldPlayer, status: Status) -> None:
    painter.box(rect)
    x, right = rect.x + painter.px(PAD), rect.x + rect.w - painter.px(PAD)
    y = rect.y + painter.px(10)
    step = min(painter.px(21), (rect.h - painter.px(46)) // 6)
    for label, value in _rows(player):
        painter.text((x, y), label, 12, DIM)
        painter.text((right, y), value, 12, TEXT, 1.0)
        y += step
    _uncertainty(painter, x, right, y, player.branch.trajectory.uncertainties[-1])


def _uncertainty(painter: Painter, x: int, right: int, y: int, uncertainty: float | None) -> None:
    painter.text((x, y + painter.px(2)), "uncertainty", 12, DIM)
    if uncertainty is None:
        painter.text((right, y + painter.px(2)), "unknown", 12, FAINT, 1.0)
        return
    bar = Rect(
        x + painter.px(76), y + painter.px(7), right - x - painter.px(76) - painter.px(44), painter.px(6)
    )
    painter.box(bar, WELL, None, 3)
    share = min(max(uncertainty / LOST, 0.0), 1.0)
    if share > 0:
        colour = mix(GOOD, REAL, 2 * share) if share < 0.5 else mix(REAL, BAD, 2 * share - 1)
        painter.box(Rect(bar.x, bar.y, max(round(bar.w * share), bar.h), bar.h), colour, None, 3)
    painter.text((right, y + painter.px(2)), f"{uncertainty:.2f}", 12, TEXT, 1.0)


def _rows(player: WorldPlayer) -> list[tuple[str, str]]:
    branch = player.branch
    walked = len(branch.trajectory.controls)
    place = branch.trajectory.poses[-1]
    return [
        ("frame", f"{walked}  ·  {walked / player.world.spec.fps:.1f} s"),
        ("start", f"{branch.start + 1} of {len(player.world.starts)}  ·  seed {branch.session.seed}"),
        ("position", "unknown" if place is None else f"{place[0]:.2f}, {place[1]:.2f} m"),
        ("heading", "unknown" if place is None else f"{math.degrees(place[2]) % 360:.0f}°"),
        ("reward", f"{sum(branch.trajectory.rewards):+.2f}"),
        ("temperature", f"{player.temperature:g}"),
        ("unit", f"{player.world.unit}  ·  latency {_frames(player.world.unit_frames)}"),
    ]


def _frames(count: int) -> str:
    return f"{count} frame{'s' if count > 1 else ''}"


def draw_keys(painter: Painter, rect: Rect, player: WorldPlayer, status: Status) -> None:
    """The keys that steer, lit while they are held, by whoever holds them; and the slots."""
    painter.box(rect)
    x, y, right = rect.x + painter.px(PAD), rect.y + painter.px(12), rect.x + rect.w - painter.px(PAD)
    keys = player.world.spec.control_space.keys
    names = [name for name in ORDER if name in keys] + [name for name in keys if name not in ORDER]
    side = painter.px(32)
    for i, name in enumerate(names[:6]):
        label = min(status.keymap.keys_for(name), key=len, default="?").upper()
        lit = DREAM if name in player.held.keys else None
        painter.cap((x + (i % 3) * side, y + (i // 3) * side), label, lit, 28, 28)
    who = f"{STEERED_BY[player.driver]} steer{'' if player.driver == 'human' else 's'}"
    painter.text((right, y + painter.px(2)), who, 13, TEXT, 1.0)
    if player.world.spec.control_space.yaw:
        mouse = "mouse looks" if status.mouse else "mouse is free"
        painter.text((right, y + painter.px(22)), mouse, 12, DIM if status.mouse else FAINT, 1.0)
        _yaw(
            painter,
            Rect(right - painter.px(96), y + painter.px(48), painter.px(96), painter.px(6)),
            player.held.yaw,
        )
    foot = rect.y + rect.h - painter.px(28)
    painter.text((x, foot), "saved", 12, DIM)
    for i, save in enumerate(player.saves):
        box = Rect(
            right - painter.px(26) * (len(player.saves) - i) + painter.px(4),
            foot - painter.px(2),
            painter.px(22),
            painter.px(18),
        )
        fill = mix(PANEL, DREAM, 0.55) if save else WELL
        painter.box(box, fill, TEXT if i == player.slot else EDGE, 4)
        painter.text((box.x + box.w / 2, box.y + painter.px(2)), str(i + 1), 11, TEXT if save else FAINT, 0.5)


def _yaw(painter: Painter, rect: Rect, yaw: float) -> None:
    """Yaw of this frame by the mouse, as a bar."""
    painter.box(rect, WELL, None, 3)
    middle = rect.x + rect.w / 2
    reach = max(min(yaw / 0.3, 1.0), -1.0) * rect.w / 2
    if abs(reach) >= 1:
        painter.box(
            Rect(round(min(middle, middle + reach)), rect.y, round(abs(reach)), rect.h), DREAM, None, 2
        )
    pygame.draw.line(painter.surface, FAINT, (middle, rect.y - 1), (middle, rect.y + rect.h))
