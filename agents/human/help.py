"""The help overlay: every key, in columns."""

from __future__ import annotations

from worldsim.agents.human.colours import DIM, DREAM, TEXT
from worldsim.agents.human.commands import COMMANDS
from worldsim.agents.human.keymap import Keymap
from worldsim.agents.human.layout import Rect
from worldsim.agents.human.painter import Painter
from worldsim.controls import ControlSpace

SHORT = {"escape": "esc", "backspace": "bksp", "return": "enter", "left ctrl": "ctrl"}
ROW, KEYS, RIM = 27, 104, 26  # height of a line, width of its keys, free rim, at interface scale 1
FOOT = "The world waits while you read. Keys of your own: worldsim/keys.toml in your config folder."

HINTS = (
    ("help", "help"),
    ("pause", "pause"),
    ("rewind", "go back"),
    ("fork", "fork"),
    ("compare", "real engine"),
    ("driver", "hand over"),
    ("next_start", "next start"),
)
"""The commands that one should know from the start, with a word for each."""

Row = tuple[list[str], str]
"""Labels of keys, and what they do."""
Column = tuple[str, list[Row]]


def draw_help(painter: Painter, window: tuple[int, int], space: ControlSpace, keymap: Keymap) -> None:
    """Dim the window and lay a card with all keys over it, as large as the window lets it be."""
    painter.dim(window, 200)
    columns = help_columns(space, keymap)
    choices = (
        (painter.at_scale(painter.ui * share / 20), across) for share in range(20, 9, -1) for across in (4, 2)
    )
    for fitting, across in choices:
        grid = [columns[i : i + across] for i in range(0, len(columns), across)]
        wide, tall = _extent(fitting, grid)
        if wide <= window[0] and tall <= window[1]:
            break
    rect = Rect((window[0] - wide) // 2, (window[1] - tall) // 2, wide, tall)
    fitting.box(rect)
    _draw_grid(fitting, rect, grid)
    fitting.text((rect.x + rect.w / 2, rect.y + rect.h - fitting.px(34)), FOOT, 12, DIM, 0.5)


def help_columns(space: ControlSpace, keymap: Keymap) -> list[Column]:
    """Titles with rows of labels and texts; what has no key is left out."""
    walk = [(_labels(keymap.keys_for(name)), name.replace("_", " ")) for name in space.keys]
    if space.yaw:
        walk.append((["mouse"], "look, after a click on the picture"))
    columns: list[Column] = [("Walk", walk)]
    for group in ("Time", "World", "Window"):
        rows: list[Row] = [
            (_labels(keymap.keys_for(command.name)), command.help)
            for command in COMMANDS
            if command.group == group and not command.name.startswith("slot_")
        ]
        if group == "Time":
            rows.append(
                (_labels([*keymap.keys_for("slot_1"), *keymap.keys_for("slot_5")]), "first to last slot")
            )
        columns.append((group, rows))
    return [(title, [row for row in rows if row[0]]) for title, rows in columns]


def _labels(keys: list[str]) -> list[str]:
    """At most two caps; those of the keypad only where there are no others."""
    usual = [key for key in keys if not (len(key) == 3 and key[0] == "[")]
    return [label(key) for key in (usual or keys)[:2]]


def label(key: str) -> str:
    """Label of a key with this pygame name."""
    is_sign = len(key) == 1 or (key[0] == "f" and key[1:].isdigit())
    return SHORT.get(key, key.upper() if is_sign else key)


def _extent(painter: Painter, grid: list[list[Column]]) -> tuple[int, int]:
    tall = sum(_tall(painter, row) for row in grid)
    return max(sum(_widths(painter, grid)), painter.width(FOOT, 12)) + painter.px(2 * RIM), tall + painter.px(
        RIM + 44
    )


def _widths(painter: Painter, grid: list[list[Column]]) -> list[int]:
    """Widths of the columns of the grid."""
    return [
        max(painter.width(text, 13) for row in grid for _, text in row[i][1]) + painter.px(KEYS + 30)
        for i in range(len(grid[0]))
    ]


def _tall(painter: Painter, row: list[Column]) -> int:
    return painter.px(48 + ROW * max(len(rows) for _, rows in row))


def _draw_grid(painter: Painter, rect: Rect, grid: list[list[Column]]) -> None:
    y = rect.y + painter.px(RIM)
    for row in grid:
        x = rect.x + painter.px(RIM)
        for (title, rows), width in zip(row, _widths(painter, grid), strict=True):
            _draw_column(painter, x, y, title, rows)
            x += width
        y += _tall(painter, row)


def _draw_column(painter: Painter, x: int, y: int, title: str, rows: list[Row]) -> None:
    painter.text((x, y), title, 16, DREAM)
    for i, (labels, text) in enumerate(rows):
        top = y + painter.px(34 + ROW * i)
        at = x
        for label in labels:
            at += painter.cap((at, top), label) + painter.px(4)
        painter.text((x + painter.px(KEYS), top + painter.px(3)), text, 13, TEXT)


def hints(keymap: Keymap) -> list[tuple[str, str]]:
    """The keys that one should know from the start, with what they do."""
    known = ((keymap.keys_for(name), text) for name, text in HINTS)
    return [(label(keys[0]), text) for keys, text in known if keys]
