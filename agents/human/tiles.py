"""The pictures that stand side by side at a moment: the dream, a second future, the real engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from worldsim.agents.human.colours import DREAM, OTHER, REAL, Colour
from worldsim.agents.human.player import Player

MOST_DB = 99.0


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 [H, W, 3], with its title, a remark beside it, and whether it is the one that is
    steered.
    """

    title: str
    remark: str
    colour: Colour
    frame: np.ndarray
    steered: bool


def tiles(player: Player) -> list[Tile]:
    """The futures from left to right, then the real engine if it is being compared."""
    shown = []
    for i, lane in enumerate(player.lanes):
        steered = lane is player.lane
        title = "Dream" if len(player.lanes) == 1 else f"Future {'AB'[i]}"
        remark = _steered_by(player) if steered else "explorer"
        shown.append(Tile(title, remark, OTHER if i else DREAM, lane.session.frame, steered))
    if player.twin is not None:
        shown.append(_real(player))
    return shown


def _steered_by(player: Player) -> str:
    return {"human": "you", "scripted": "explorer", "random": "chance"}[player.driver]


def _real(player: Player) -> Tile:
    assert player.twin is not None, "asked for the real engine's picture without one"
    frame = player.twin.frame
    if frame is None:
        return Tile("Engine", "catching up", REAL, np.zeros_like(player.lane.session.frame), False)
    if player.twin.over:
        remark = "its episode is over"
    elif player.waiting:
        remark = "catching up"
    else:
        likeness = psnr(player.lane.session.frame, frame)
        remark = f"{likeness:.1f} dB alike" if likeness < MOST_DB else "identical"
    return Tile("Engine", remark, REAL, frame, False)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 pictures in dB, at most MOST_DB."""
    error = float(np.square(a.astype(np.float32) - b.astype(np.float32)).mean())
    return min(10 * math.log10(255**2 / error), MOST_DB) if error else MOST_DB
