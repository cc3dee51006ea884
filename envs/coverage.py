"""Coverage of a recording: a heat map of the camera's positions from above, and its evenness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from worldsim.envs.floor_plan import FloorPlan

__all__ = ["Coverage"]

_CELL = 0.5
_PIXELS = 12
"""Edge of a cell in the picture."""


class Coverage:
    """Counts of camera positions by cell of half a metre.

    Args:
        poses: ``float64 [N, 4, 4]``, in metres.
        plan: the map, or None where there is none; then only the cells that were visited are known.
    """

    def __init__(self, poses: np.ndarray, plan: FloorPlan | None) -> None:
        self._plan = plan
        position = poses[:, :2, 3]
        self._origin = position.min(0) if plan is None else plan.origin
        shape = (np.ptp(position, axis=0) // _CELL + 1).astype(int) if plan is None else plan.shape
        cells = ((position - self._origin) / _CELL).astype(int).clip(0, np.array(shape) - 1)
        self.counts = np.zeros(shape, dtype=np.int64)
        np.add.at(self.counts, tuple(cells.T), 1)
        self._free = self.counts > 0 if plan is None else plan.free

    @property
    def share(self) -> float:
        """Share of the free cells that were visited."""
        return float((self.counts[self._free] > 0).mean())

    @property
    def evenness(self) -> float:
        """Entropy of the counts over the free cells, as a share of the largest possible one."""
        counts = self.counts[self._free]
        p = counts[counts > 0] / counts.sum()
        return float(-(p * np.log(p)).sum() / max(np.log(counts.size), 1e-9))

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of {int(self._free.sum())} cells covered, evenness {self.evenness:.2f}"
        )

    def save(self, path: Path) -> None:
        """Draw the heat map, logarithmic, with the walls over it; y points up."""
        heat = np.log1p(self.counts) / np.log1p(self.counts.max())
        cells = Image.fromarray(_colour(heat.T[::-1]))
        image = cells.resize((cells.width * _PIXELS, cells.height * _PIXELS), Image.Resampling.NEAREST)
        if self._plan is not None:
            draw = ImageDraw.Draw(image)
            for x1, y1, x2, y2 in (self._plan.walls - np.tile(self._origin, 2)) / _CELL * _PIXELS:
                draw.line([x1, image.height - y1, x2, image.height - y2], fill=(255, 255, 255), width=2)
        image.save(path)


def _colour(heat: np.ndarray) -> np.ndarray:
    """[0, 1] to black, red, yellow, white."""
    channels = [np.clip(3 * heat - shift, 0, 1) for shift in (0, 1, 2)]
    return (255 * np.stack(channels, axis=-1)).astype(np.uint8)
