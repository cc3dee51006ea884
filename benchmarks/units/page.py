"""The page of the tables: rows with their intervals, strips and films side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from worldsim.errors import DependencyError
from worldsim.evaluation.mp4 import encode

__all__ = ["markdown", "write_films", "write_page"]

Row = Mapping[str, object]
_GAP, _LABEL = 4, 13


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown; columns are those of any row, in the order in which they come."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_films(folder: Path, films: Mapping[str, np.ndarray], fps: float, every: int = 8) -> list[str]:
    """Write films uint8 [F, H, W, 3] side by side, with a strip of every eighth frame; returns the files.

    The film is an MP4, or an animated GIF where PyAV is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = list(films)
    length = min(len(film) for film in films.values())
    columns = [_labelled(films[name][:length], name) for name in names]
    together = np.concatenate([column for column in columns], 2)
    strip = np.concatenate([np.concatenate(list(films[name][:length:every]), 1) for name in names])
    Image.fromarray(strip).resize((strip.shape[1] * 2, strip.shape[0] * 2), Image.Resampling.NEAREST).save(
        folder / "strips.png"
    )
    try:
        (folder / "films.mp4").write_bytes(encode(together, fps, height=together.shape[1] * 2))
        film = "films.mp4"
    except DependencyError:
        first, *rest = (Image.fromarray(frame) for frame in together)
        first.save(folder / "films.gif", save_all=True, append_images=rest, duration=1000 / fps, loop=0)
        film = "films.gif"
    return ["strips.png", film]


def write_page(path: Path, tables: Mapping[str, Sequence[Row]], films: Mapping[str, Sequence[str]]) -> None:
    """Write an HTML page of tables and, for each, its films and strips, paths relative to the page."""
    parts = ["<!doctype html><meta charset=utf-8><title>prediction units</title>", _STYLE]
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        head = "".join(f"<th>{escape(column)}" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(row.get(column)))}" for column in columns) for row in rows
        )
        parts.append(f"<h2>{escape(name)}</h2><table><tr>{head}{body}</table>")
        for file in films.get(name, ()):
            tag = "<video controls loop muted" if file.endswith(".mp4") else "<img"
            parts.append(f'{tag} src="{escape(file)}">' + ("</video>" if tag.startswith("<video") else ""))
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


_STYLE = """<style>body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin-bottom:1em}
td,th{border:1px solid #ccc;padding:2px 6px;text-align:right}td:first-child{text-align:left}
video,img{max-width:100%;image-rendering:pixelated;display:block;margin:.5em 0}</style>"""


def _cell(value: object) -> str:
    if value is None:
        return ""
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 10
        else (f"{value:.2f}" if isinstance(value, float) else str(value))
    )


def _labelled(film: np.ndarray, name: str) -> np.ndarray:
    """A film with its name above it and a gap to its right."""
    bar = Image.new("RGB", (film.shape[2], _LABEL))
    ImageDraw.Draw(bar).text((1, 1), name[:14], fill=(255, 255, 255))
    bars = np.broadcast_to(np.asarray(bar), (len(film), *np.asarray(bar).shape))
    return np.pad(np.concatenate([bars, film], 1), ((0, 0), (0, _LABEL % 2), (0, _GAP), (0, 0)))
