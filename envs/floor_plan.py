"""Floor plan: a grid of free cells from a map's blocking lines, and shortest paths on it."""

from __future__ import annotations

from collections import deque

import numpy as np

__all__ = ["FloorPlan"]

_NEIGHBOURS = [(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1)]


class FloorPlan:
    """Cells of a ground grid that a walker can reach.

    Args:
        walls: ``float64 [n, 4]`` blocking lines x1, y1, x2, y2 in metres.
        inside: a point (x, y) in metres that can be reached.
        cell: edge of a cell in metres.
        clearance: distance in metres that a walker keeps from the walls.
    """

    def __init__(
        self, walls: np.ndarray, inside: tuple[float, float], cell: float = 0.5, clearance: float = 0.6
    ) -> None:
        self.walls = walls
        self.cell = cell
        corners = walls.reshape(-1, 2)
        self.origin = corners.min(0)
        self.shape: tuple[int, int] = tuple(
            np.ceil((corners.max(0) - self.origin) / cell).astype(int).tolist()
        )
        centres = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in self.shape), indexing="ij"), axis=-1)
        self.centres = self.origin + cell * centres
        """``float64 [nx, ny, 2]``: the cells' centres in metres."""
        open_cells = _distance_to_lines(self.centres, walls) > clearance
        self.free = _reachable(open_cells, self._nearest(open_cells, np.asarray(inside)))
        """``bool [nx, ny]``."""

    def cell_of(self, position: np.ndarray) -> tuple[int, int]:
        """The cell that holds (x, y), clipped to the grid."""
        i, j = ((np.asarray(position) - self.origin) / self.cell).astype(int)
        return min(max(i, 0), self.shape[0] - 1), min(max(j, 0), self.shape[1] - 1)

    def distances(self, goal: tuple[int, int]) -> np.ndarray:
        """``int [nx, ny]``: steps to ``goal`` from each cell; -1 where there is no way."""
        steps = np.full(self.shape, -1)
        steps[goal] = 0
        queue = deque([goal])
        while queue:
            i, j = queue.popleft()
            for di, dj in _NEIGHBOURS:
                near = (i + di, j + dj)
                if self._is_free(near) and steps[near] < 0:
                    steps[near] = steps[i, j] + 1
                    queue.append(near)
        return steps

    def path(self, position: np.ndarray, steps: np.ndarray, length: int) -> list[np.ndarray]:
        """Up to ``length`` cell centres on the way from ``position`` down the field ``steps``."""
        here = self._nearest(self.free, position)
        way = [self.centres[here]]
        while len(way) < length and steps[here] > 0:
            around = [(here[0] + di, here[1] + dj) for di, dj in _NEIGHBOURS]
            here = min((c for c in around if self._is_free(c)), key=lambda c: steps[c])
            way.append(self.centres[here])
        return way

    def view(self, position: np.ndarray, heading: float) -> float:
        """Metres from (x, y) along ``heading`` (radians) to the first cell that is not free; 20 at most."""
        distance = np.arange(0, 20, 0.5 * self.cell)
        points = position + distance[:, None] * (np.cos(heading), np.sin(heading))
        cells = ((points - self.origin) / self.cell).astype(int).clip(0, np.array(self.shape) - 1)
        blocked = ~self.free[tuple(cells.T)]
        return float(distance[blocked.argmax()]) if blocked.any() else 20.0

    def _is_free(self, cell: tuple[int, int]) -> bool:
        return 0 <= cell[0] < self.shape[0] and 0 <= cell[1] < self.shape[1] and bool(self.free[cell])

    def _nearest(self, cells: np.ndarray, position: np.ndarray) -> tuple[int, int]:
        index = np.argwhere(cells)
        distance = np.linalg.norm(self.centres[cells] - position, axis=-1)
        i, j = index[np.argmin(distance)]
        return int(i), int(j)


def _distance_to_lines(points: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """``[..., 2]`` points to ``[...]``: distance to the nearest of ``[n, 4]`` line segments."""
    nearest = np.full(points.shape[:-1], np.inf)
    for line in lines:
        start, along = line[:2], line[2:] - line[:2]
        share = np.clip((points - start) @ along / max(along @ along, 1e-12), 0, 1)
        gap = points - start - share[..., None] * along
        nearest = np.minimum(nearest, np.linalg.norm(gap, axis=-1))
    return nearest


def _reachable(open_cells: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """The open cells that a walk in four directions reaches from ``start``."""
    reached = np.zeros_like(open_cells)
    reached[start] = True
    queue = deque([start])
    while queue:
        i, j = queue.popleft()
        for di, dj in _NEIGHBOURS[:4]:
            near = (i + di, j + dj)
            is_inside = min(near) >= 0 and near[0] < reached.shape[0] and near[1] < reached.shape[1]
            if is_inside and open_cells[near] and not reached[near]:
                reached[near] = True
                queue.append(near)
    return reached
