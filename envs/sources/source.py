"""The protocol of a source: a real environment, stepped frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worldsim.controls import Control
from worldsim.data.spec import SourceSpec

__all__ = ["Observation", "Source"]


@dataclass(frozen=True, eq=False)
class Observation:
    """Observation of a source after a reset or a step."""

    frame: np.ndarray
    """``uint8 [H, W, 3]``, RGB."""
    pose: np.ndarray | None = None
    """``float64 [4, 4]`` camera-to-world in metres, or None where the source has no pose."""
    reward: float = 0.0
    """Reward of the step that led here; 0 after a reset."""
    terminated: bool = False
    """True if the task ended here; the frame is then the last one that was rendered."""
    truncated: bool = False
    """True if the episode was cut off here before its task ended."""
    depth: np.ndarray | None = None
    """``float32 [H, W]``, metres along the camera's forward axis, where the source was asked for it."""
    labels: Mapping[str, np.ndarray] | None = None
    """Kind of object -> where it is seen, ``bool [H, W]``; None where the source was asked for none."""


class SourceConfig(Protocol):
    """A frozen dataclass, registered as a part of the kind "source", whose fields have defaults."""

    def build(self, size: tuple[int, int] | None, *, depth: bool, labels: bool) -> Source:
        """Open the source; see ``make_source``.

        Raises:
            SourceError: a size that the source cannot render.
        """


class Source(Protocol):
    """A deterministic environment: the same seed and the same controls give the same frames and poses."""

    @property
    def spec(self) -> SourceSpec:
        """The source's fixed properties."""

    def reset(self, seed: int) -> Observation:
        """Begin the episode that ``seed`` fixes."""

    def step(self, control: Control) -> Observation:
        """Hold ``control`` for one frame. Raises SourceError after the end of an episode."""

    def walls(self) -> np.ndarray | None:
        """``float64 [n, 4]``: the map's blocking lines x1, y1, x2, y2 in metres after a reset, or None."""

    def close(self) -> None:
        """Release the environment; further calls do nothing."""
