"""Plots as SVG, drawn by hand: lines over frames, a table of shares, paths from above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

__all__ = ["heat", "lines", "paths"]

COLOURS = ("#2f6fde", "#d9622b", "#2a9d5c", "#8a8f98", "#a04bc4", "#c2a021")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 560, 260, 48, 12, 34
_MOST = 400
"""Points of a line, at most."""


def lines(series: Mapping[str, np.ndarray], *, x: str, y: str, end: float | None = None) -> str:
    """Draw one line per name over values [F] that are evenly spread from 1 (or from 0 to ``end``)."""
    known = {name: np.asarray(values, float) for name, values in series.items() if len(values)}
    finite = np.concatenate([values[np.isfinite(values)] for values in known.values()])
    ticks = _ticks(float(finite.min()), float(finite.max()))
    last = end or max(len(values) for values in known.values())

    def across(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 10) * at / last

    def down(at: float) -> float:
        share = (at - ticks[0]) / (ticks[-1] - ticks[0])
        return float(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share)

    parts = [_grid(across(0), down(tick), across(last), _number(tick)) for tick in ticks]
    for tick in _ticks(0, last)[:-1]:
        parts.append(_text(across(tick), _HEIGHT - _BOTTOM + 16, _number(tick), "middle"))
    parts += [_text(_WIDTH - 10, _HEIGHT - 4, x, "end"), _text(_LEFT + 6, _TOP, y, "start")]
    for number, values in enumerate(known.values()):
        at = np.arange(0, len(values), -(-len(values) // _MOST))
        x_values = at + 1 if end is None else (at + 0.5) * last / len(values)
        points = " ".join(f"{across(a):.1f},{down(b):.1f}" for a, b in zip(x_values, values[at], strict=True))
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{points}"/>')
    return _figure("".join(parts), _WIDTH, _HEIGHT, list(known))


def heat(names: Sequence[str], table: np.ndarray) -> str:
    """Draw shares of each row's sum, rows and columns named; darker is more."""
    size, left, top = 42, 84, 84
    total = np.maximum(table.sum(1, keepdims=True), 1)
    parts = []
    for i, name in enumerate(names):
        parts.append(_text(left - 6, top + size * (i + 0.6), name, "end"))
        origin = f"{left + size * (i + 0.6):.0f} {top - 6}"
        parts.append(f'<text transform="translate({origin}) rotate(-50)">{escape(name)}</text>')
        for j, share in enumerate((table / total)[i]):
            x, y = left + size * j, top + size * i
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size - 2}" height="{size - 2}" fill="#2f6fde" '
                f'fill-opacity="{0.06 + 0.94 * share:.2f}"/>'
            )
            if table[i, j]:
                parts.append(_text(x + size / 2, y + size / 2 + 4, str(table[i, j]), "middle"))
    side = size * len(names)
    return _figure("".join(parts), left + side + 40, top + side + 6, [])


def paths(tracks: Mapping[str, np.ndarray]) -> str:
    """Draw paths [F, 2] in metres seen from above, one scale for both axes; a dot marks the start."""
    every = np.concatenate(list(tracks.values()))
    low, high = every.min(0), every.max(0)
    side, pad = 240, 14
    scale = (side - 2 * pad) / max(float((high - low).max()), 0.5)
    middle = (low + high) / 2
    parts = []
    for number, way in enumerate(tracks.values()):
        x = side / 2 + (way[:, 0] - middle[0]) * scale
        y = side / 2 - (way[:, 1] - middle[1]) * scale
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        parts.append(
            f'<polyline fill="none" stroke="{COLOURS[number]}" stroke-width="1.8" points="{points}"/>'
        )
        parts.append(f'<circle cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="3" fill="{COLOURS[number]}"/>')
    parts.append(
        f'<line x1="{pad}" y1="{side - 6}" x2="{pad + scale:.1f}" y2="{side - 6}" stroke="currentColor"/>'
    )
    parts.append(_text(pad, side - 10, "1 m", "start"))
    return _figure("".join(parts), side, side, list(tracks))


def _figure(body: str, width: float, height: float, names: Sequence[str]) -> str:
    """An SVG with its legend below."""
    keys = "".join(
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    legend = f'<div class="legend">{keys}</div>' if names else ""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f"<div><svg {size}>{body}</svg>{legend}</div>"


def _grid(left: float, y: float, right: float, label: str) -> str:
    line = f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="currentColor" '
    return line + 'stroke-opacity=".15"/>' + _text(left - 5, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> np.ndarray:
    """Round numbers that enclose the range."""
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    span = high - low
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    return np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step


def _number(value: float) -> str:
    return f"{value:.6g}"
