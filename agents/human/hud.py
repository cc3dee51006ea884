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
from worldsim.agents.human.pen import Pen
from worldsim.agents.human.player import STEPS, Player

GAP, PAD = 10, 14  # at interface scale 1
LOST = 0.65  # a drift that means three metres off in a usual picture, or one that has little of its past
ORDER = ("turn_left", "forward", "turn_right", "strafe_left", "backward", "strafe_right")


@dataclass(frozen=True)
class Status:
    """What the window knows beyond its player: ``fps`` is the pace asked for, 0 for none."""

    fps: float
    keymap: Keymap
    rewinding: bool = False
    recorded: int | None = None
    mouse: bool = False


Draw = Callable[[Pen, Rect, Player, Status], None]


def draw_panel(pen: Pen, rect: Rect, upright: bool, player: Player, status: Status) -> None:
    """Cards below each other, or side by side where the panel lies below the pictures."""
    gap = pen.px(GAP)
    if upright:
        _stack(pen, rect, player, status, _fitting(rect.h, pen))
        return
    wide = pen.px(270)
    left = Rect(rect.x, rect.y, wide, rect.h)
    _stack(pen, left, player, status, [(_heading, 64), (_speed, 0)])
    rest = [card for card in (_facts, draw_keys, _map) if card is not draw_keys or rect.w > pen.px(900)]
    each = (rect.w - wide - len(rest) * gap) // len(rest)
    for i, card in enumerate(rest):
        card(pen, Rect(rect.x + wide + gap + i * (each + gap), rect.y, each, rect.h), player, status)


def _fitting(height: int, pen: Pen) -> list[tuple[Draw, int]]:
    """The cards that there is room for, with their heights; height 0 takes the rest."""
    cards: list[tuple[Draw, int]] = [
        (_heading, 64),
        (_speed, 132),
        (_map, 0),
        (_facts, 150),
        (draw_keys, 118),
    ]
    for dropped in (draw_keys, _map, _speed):
        needed = sum((h or 110) + GAP for _, h in cards) - GAP
        if pen.px(needed) <= height:
            break
        cards = [card for card in cards if card[0] is not dropped]
    return cards


def _stack(pen: Pen, rect: Rect, player: Player, status: Status, cards: list[tuple[Draw, int]]) -> None:
    gap = pen.px(GAP)
    rest = rect.h - sum(pen.px(h) for _, h in cards) - gap * (len(cards) - 1)
    y = rect.y
    for draw, h in cards:
        high = pen.px(h) if h else rest
        draw(pen, Rect(rect.x, y, rect.w, high), player, status)
        y += high + gap


def _heading(pen: Pen, rect: Rect, player: Player, status: Status) -> None:
    pen.box(rect)
    x, y = rect.x + pen.px(PAD), rect.y + pen.px(10)
    pen.text((x, y), player.world.name, 19, TEXT)
    text, colour = _state(player, status)
    right = rect.x + rect.w - pen.px(PAD)
    width = pen.width(text, 11) + pen.px(16)
    chip = Rect(right - width, y + pen.px(3), width, pen.px(20))
    pen.box(chip, mix(PANEL, colour, 0.16), mix(PANEL, colour, 0.5), 10)
    pen.text((chip.x + width / 2, chip.y + pen.px(3)), text, 11, colour, 0.5)
    world = player.world
    dtype = str(world.dtype).removeprefix("torch.")
    pen.text((x, y + pen.px(26)), f"{_count(world.params)} parameters · {world.device} · {dtype}", 12, DIM)


def _state(player: Player, status: Status) -> tuple[str, Colour]:
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


def _speed(pen: Pen, rect: Rect, player: Player, status: Status) -> None:
    pen.box(rect)
    x, y, right = rect.x + pen.px(PAD), rect.y + pen.px(10), rect.x + rect.w - pen.px(PAD)
    stats = player.stats
    width = pen.text((x, y), f"{stats.loop_fps:.1f}", 28, TEXT)
    pace = f"of {status.fps:g} fps" if status.fps else "fps, no limit"
    pen.text((x + width + pen.px(7), y + pen.px(13)), pace, 12, DIM)
    at = float(right)
    for k in reversed(STEPS):
        at -= pen.px(24)
        pen.cap((at, y + pen.px(7)), str(k), DREAM if k == player.engine.steps else None)
        at -= pen.px(4)
    pen.text((at - pen.px(4), y + pen.px(10)), "K", 12, DIM, 1.0)
    foot = rect.y + rect.h - pen.px(26)
    _timings(
        pen, Rect(x, y + pen.px(44), right - x, max(foot - y - pen.px(52), 1)), stats.recent_ms, status.fps
    )
    pen.text((x, foot), "step", 12, DIM)
    at = float(right)
    for label, p in (("p99", 99), ("p50", 50)):
        at -= pen.text((at, foot), f"{stats.percentile(p):.1f} ms", 12, TEXT, 1.0) + pen.px(6)
        at -= pen.text((at, foot), label, 12, DIM, 1.0) + pen.px(16)


def _timings(pen: Pen, rect: Rect, times: list[float], fps: float) -> None:
    """A bar for each recent step, against the time that the pace leaves for it."""
    budget = 1000.0 / fps if fps else 0.0
    shown = times[-max(rect.w // pen.px(3), 1) :]
    top = max(1.15 * budget, *shown, 1.0) if shown else max(budget, 1.0)
    pygame.draw.line(pen.surface, EDGE, (rect.x, rect.y + rect.h), (rect.x + rect.w, rect.y + rect.h))
    for i, ms in enumerate(shown):
        high = max(round(rect.h * min(ms / top, 1.0)), 1)
        colour = BAD if budget and ms > budget else mix(PANEL, DREAM, 0.65)
        left = rect.x + rect.w - (len(shown) - i) * pen.px(3)
        pygame.draw.rect(pen.surface, colour, (left, rect.y + rect.h - high, max(pen.px(2), 1), high))
    if budget:
        y = rect.y + rect.h - round(rect.h * budget / top)
        pygame.draw.line(pen.surface, mix(PANEL, REAL, 0.5), (rect.x, y), (rect.x + rect.w, y))


def _map(pen: Pen, rect: Rect, player: Player, status: Status) -> None:
    draw_map(pen, rect, player)


def _facts(pen: Pen, rect: Rect, player: Player, status: Status) -> None:
    pen.box(rect)
    x, right = rect.x + pen.px(PAD), rect.x + rect.w - pen.px(PAD)
    y = rect.y + pen.px(10)
    step = min(pen.px(21), (rect.h - pen.px(46)) // 5)
    for label, value in _rows(player):
        pen.text((x, y), label, 12, DIM)
        pen.text((right, y), value, 12, TEXT, 1.0)
        y += step
    _drift(pen, x, right, y, player.lane.history.drifts[-1])


def _drift(pen: Pen, x: int, right: int, y: int, drift: float | None) -> None:
    pen.text((x, y + pen.px(2)), "drift", 12, DIM)
    if drift is None:
        pen.text((right, y + pen.px(2)), "unknown", 12, FAINT, 1.0)
        return
    bar = Rect(x + pen.px(48), y + pen.px(7), right - x - pen.px(48) - pen.px(44), pen.px(6))
    pen.box(bar, WELL, None, 3)
    share = min(max(drift / LOST, 0.0), 1.0)
    if share > 0:
        colour = mix(GOOD, REAL, 2 * share) if share < 0.5 else mix(REAL, BAD, 2 * share - 1)
        pen.box(Rect(bar.x, bar.y, max(round(bar.w * share), bar.h), bar.h), colour, None, 3)
    pen.text((right, y + pen.px(2)), f"{drift:.2f}", 12, TEXT, 1.0)


def _rows(player: Player) -> list[tuple[str, str]]:
    lane = player.lane
    walked = len(lane.history.controls)
    place = lane.history.places[-1]
    return [
        ("frame", f"{walked}  ·  {walked / player.world.spec.fps:.1f} s"),
        ("start", f"{lane.start + 1} of {len(player.world.starts)}  ·  seed {lane.session.seed}"),
        ("place", "unknown" if place is None else f"{place[0]:.2f}, {place[1]:.2f} m"),
        ("heading", "unknown" if place is None else f"{math.degrees(place[2]) % 360:.0f}°"),
        ("reward", f"{sum(lane.history.rewards):+.2f}"),
    ]


def draw_keys(pen: Pen, rect: Rect, player: Player, status: Status) -> None:
    """The keys that steer, lit while they are held, by whoever holds them; and the slots."""
    pen.box(rect)
    x, y, right = rect.x + pen.px(PAD), rect.y + pen.px(12), rect.x + rect.w - pen.px(PAD)
    keys = player.world.spec.control_space.keys
    names = [name for name in ORDER if name in keys] + [name for name in keys if name not in ORDER]
    side = pen.px(32)
    for i, name in enumerate(names[:6]):
        label = min(status.keymap.keys_for(name), key=len, default="?").upper()
        lit = DREAM if name in player.held.keys else None
        pen.cap((x + (i % 3) * side, y + (i // 3) * side), label, lit, 28, 28)
    who = {"human": "you steer", "scripted": "explorer steers", "random": "chance steers"}[player.driver]
    pen.text((right, y + pen.px(2)), who, 13, TEXT, 1.0)
    if player.world.spec.control_space.look:
        mouse = "mouse looks" if status.mouse else "mouse is free"
        pen.text((right, y + pen.px(22)), mouse, 12, DIM if status.mouse else FAINT, 1.0)
        _look(pen, Rect(right - pen.px(96), y + pen.px(48), pen.px(96), pen.px(6)), player.held.look)
    foot = rect.y + rect.h - pen.px(28)
    pen.text((x, foot), "saved", 12, DIM)
    for i, save in enumerate(player.saves):
        box = Rect(
            right - pen.px(26) * (len(player.saves) - i) + pen.px(4), foot - pen.px(2), pen.px(22), pen.px(18)
        )
        fill = mix(PANEL, DREAM, 0.55) if save else WELL
        pen.box(box, fill, TEXT if i == player.slot else EDGE, 4)
        pen.text((box.x + box.w / 2, box.y + pen.px(2)), str(i + 1), 11, TEXT if save else FAINT, 0.5)


def _look(pen: Pen, rect: Rect, look: float) -> None:
    """How far the mouse turns the view in this frame."""
    pen.box(rect, WELL, None, 3)
    middle = rect.x + rect.w / 2
    reach = max(min(look / 0.3, 1.0), -1.0) * rect.w / 2
    if abs(reach) >= 1:
        pen.box(Rect(round(min(middle, middle + reach)), rect.y, round(abs(reach)), rect.h), DREAM, None, 2)
    pygame.draw.line(pen.surface, FAINT, (middle, rect.y - 1), (middle, rect.y + rect.h))
