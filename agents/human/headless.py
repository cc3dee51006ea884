"""The walk without a window: an agent steers, a video and a contact sheet come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from worldsim.agents.human.captions import sheet, side_by_side
from worldsim.agents.human.colours import DREAM, REAL
from worldsim.agents.human.panes import panes
from worldsim.agents.human.player import WorldPlayer
from worldsim.agents.human.video import VideoWriter
from worldsim.controls import Control
from worldsim.errors import DependencyError, EngineError

PICTURES = 16  # in a contact sheet
HEIGHT = 480  # of a video's pictures, about


@dataclass
class HeadlessRun:
    """Result of a headless run: its files, None where one could not be written."""

    video: Path | None = None
    sheet: Path | None = None
    compared: bool = False
    columns: list[tuple[str, list[np.ndarray]]] = field(default_factory=list)


def walk(
    player: WorldPlayer, frames: int, video: Path, picture: Path, say: Callable[[str], None]
) -> HeadlessRun:
    """Let the player's agent walk ``frames`` frames; the real engine is beside it where it is there.

    ``say`` is told what a person should know. Raises EngineError if the engine stops.
    """
    result = HeadlessRun()
    _compare(player, say)
    writer = _open(video, player.world.spec.fps, say)
    every = max(frames // PICTURES, 1)
    try:
        for i in range(frames):
            _advance(player)
            shown = [pane.frame for pane in panes(player)]
            if writer is not None:
                writer.write(film(player))
            if i % every == every - 1 and len(result.columns) < PICTURES:
                result.columns.append((f"frame {i + 1} · {(i + 1) / player.world.spec.fps:.1f} s", shown))
    finally:
        if writer is not None:
            writer.close()
    result.compared = player.reference is not None
    result.video = None if writer is None else video
    result.sheet = _write_sheet(result, picture)
    return result


def film(player: WorldPlayer) -> np.ndarray:
    """One frame of a video: the pictures of this moment side by side, uint8 with even sides."""
    shown = panes(player)
    titles = [(f"{pane.title}   {pane.remark}", pane.colour) for pane in shown]
    return side_by_side(
        [pane.frame for pane in shown], titles, max(round(HEIGHT / shown[0].frame.shape[0]), 1)
    )


def _compare(player: WorldPlayer, say: Callable[[str], None]) -> None:
    player.do("compare")
    _settle(player)
    if player.reference is None and player.notices:
        say(f"The dream only, without the real engine beside it. {player.notices[-1].text}")


def _open(video: Path, fps: float, say: Callable[[str], None]) -> VideoWriter | None:
    try:
        return VideoWriter(video, fps)
    except DependencyError as error:
        say(f"No video. {error}")
        return None


def _settle(player: WorldPlayer) -> None:
    while player.waiting:
        player.tick(Control())


def _advance(player: WorldPlayer) -> None:
    if not player.tick(Control()):
        raise EngineError(
            "a walk needs an engine that goes on", player.notices[-1].text if player.notices else None
        )
    _settle(player)


def _write_sheet(result: HeadlessRun, picture: Path) -> Path | None:
    if not result.columns:
        return None
    rows = min(len(frames) for _, frames in result.columns)  # the real engine may have dropped out on the way
    columns = [(caption, frames[:rows]) for caption, frames in result.columns]
    names = [("dream", DREAM), ("engine", REAL)][:rows]
    scale = max(round(160 / columns[0][1][0].shape[1]), 1)
    Image.fromarray(sheet(columns, names, scale=scale)).save(picture)
    return picture
