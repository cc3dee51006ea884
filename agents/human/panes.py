"""Panes side by side: the dream, a second branch, the real engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from worldsim.agents.human.colours import DREAM, OTHER, REAL, Colour
from worldsim.agents.human.player import STEERED_BY, WorldPlayer

MOST_DB = 99.0


@dataclass(frozen=True)
class Pane:
    """A picture, uint8 [H, W, 3], with its title, a remark beside it, and whether it is the one that is
    steered.
    """

    title: str
    remark: str
    colour: Colour
    frame: np.ndarray
    steered: bool


def panes(player: WorldPlayer) -> list[Pane]:
    """The futures from left to right, then the real engine if it is being compared."""
    shown = []
    for i, branch in enumerate(player.branches):
        steered = branch is player.branch
        title = "Dream" if len(player.branches) == 1 else f"Future {'AB'[i]}"
        remark = STEERED_BY[player.driver if steered else "scripted"]
        shown.append(Pane(title, remark, OTHER if i else DREAM, branch.session.frame, steered))
    if player.reference is not None:
        shown.append(_real(player))
    return shown


def _real(player: WorldPlayer) -> Pane:
    assert player.reference is not None, "asked for the real engine's picture without one"
    frame = player.reference.frame
    if frame is None:
        return Pane("Engine", "catching up", REAL, np.zeros_like(player.branch.session.frame), False)
    if player.reference.over:
        remark = "its episode is over"
    elif player.waiting:
        remark = "catching up"
    else:
        likeness = psnr(player.branch.session.frame, frame)
        remark = f"{likeness:.1f} dB alike" if likeness < MOST_DB else "identical"
    return Pane("Engine", remark, REAL, frame, False)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 pictures in dB, at most MOST_DB."""
    error = float(np.square(a.astype(np.float32) - b.astype(np.float32)).mean())
    return min(10 * math.log10(255**2 / error), MOST_DB) if error else MOST_DB
