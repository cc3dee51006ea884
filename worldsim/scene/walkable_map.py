"""Walkable map: the ground that cameras were seen on; imagined cameras are projected onto it.

Predicted motion errs by centimetres a frame, and no input brings a camera back once it is inside a wall,
where no recording ever was. Visited cells are free space, as in occupancy mapping, already eroded by the
body's radius: a camera at the edge touches the wall. The nearest visited point makes it slide along.

Shapes: B cameras.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import ConfigError
from worldsim.kernels.motion import PackedWalkableMap

_SEARCH_RADIUS = 0.75
"""Metres beyond the ground at which its nearest point is still looked for: more than a step is long."""
_FAN_RADII = (0.04, 0.12, 0.25, 0.45)
_FAN_RAYS = 16
_PATH_SAMPLES = 16
"""Samples along a path at which the map is read."""
COLLISION_DIM = 6
"""Length of ``WalkableMap.collision_features``."""
_CLOSING_CELLS = 4
"""Cells: gaps between visits as wide as twice this are taken for ground, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WalkableMapConfig:
    """Extent and resolution of the map. Metres."""

    bounds: tuple[float, float, float, float]
    """x0, y0, x1, y1: the mapped rectangle."""
    cell: float = 0.0625

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.bounds
        if not (x1 > x0 and y1 > y0 and self.cell > 0):
            rule = "a walkable map needs x1 > x0, y1 > y0 and a cell > 0"
            raise ConfigError(rule, (self.bounds, self.cell), "swap the bounds, or give a cell in metres")

    @property
    def walkable_dim(self) -> int:
        """Length of ``WalkableMap.walkable_features``."""
        return len(_FAN_RADII) * _FAN_RAYS


def may_read_values(device: torch.device) -> bool:
    """True where reading values does not mean to wait for the device: on a CPU."""
    return device.type == "cpu"


class WalkableMap(nn.Module):
    """The map: cells that cameras visited."""

    visited: Tensor
    fan_radii: Tensor
    fan_angles: Tensor
    path_fractions: Tensor
    corner: Tensor

    def __init__(self, config: WalkableMapConfig) -> None:
        super().__init__()
        self.config = config
        x0, y0, x1, y1 = config.bounds
        rows, columns = round((y1 - y0) / config.cell), round((x1 - x0) / config.cell)
        self.register_buffer("visited", torch.zeros(max(rows, 1), max(columns, 1), dtype=torch.uint8))
        angle = torch.arange(_FAN_RAYS)[None, :, None] * (2 * math.pi / _FAN_RAYS)
        self.register_buffer("fan_radii", torch.tensor(_FAN_RADII)[None, None], persistent=False)
        self.register_buffer("fan_angles", angle, persistent=False)
        steps = torch.arange(_PATH_SAMPLES + 1, dtype=torch.float64) / _PATH_SAMPLES
        self.register_buffer("path_fractions", steps, persistent=False)
        self.register_buffer("corner", torch.tensor([x0, y0], dtype=torch.float64), persistent=False)

    def packed(self) -> PackedWalkableMap:
        """The map, packed for kernels."""
        config = self.config
        return PackedWalkableMap(
            self.visited, config.bounds[:2], config.cell, round(_SEARCH_RADIUS / config.cell)
        )

    def mark_visited(self, positions: Tensor) -> None:
        """Draw the map from where cameras were, [n, 2] in metres; small gaps between them are closed."""
        count = torch.zeros(1, 1, *self.visited.shape, device=self.visited.device)
        row, column = self._cell_of(positions.to(self.corner.device))
        count[0, 0, row.clamp(0, count.shape[2] - 1), column.clamp(0, count.shape[3] - 1)] = 1
        wide = F.max_pool2d(count, 2 * _CLOSING_CELLS + 1, 1, _CLOSING_CELLS)
        closed = -F.max_pool2d(-wide, 2 * _CLOSING_CELLS + 1, 1, _CLOSING_CELLS)
        self.visited.copy_(closed[0, 0])

    def project(self, start: Tensor, wanted: Tensor) -> Tensor | None:
        """Positions that cameras reach on their way from ``start`` to ``wanted``, all float64 [B, 2].

        That is where they want to be or, if it is no ground, the nearest point that is. One that starts off
        the ground, as an explicit pose may, goes as it likes. None: all come to where they want to be, which
        is only found out where asking does not mean to wait for the device.
        """
        before, after = self._is_ground(torch.stack([start, wanted]))
        return self._project_blocked(wanted, after | ~before)

    def _project_blocked(self, wanted: Tensor, free: Tensor) -> Tensor | None:
        """``project`` where it is known who may stand where they want to, bool [B]."""
        if not may_read_values(wanted.device):
            return torch.where(free[:, None], wanted, self._nearest_ground(wanted))
        left = (~free).nonzero()[:, 0]
        return wanted.index_put((left,), self._nearest_ground(wanted[left])) if len(left) else None

    def walkable_features(self, planar: Tensor) -> Tensor:
        """Walkable cells around cameras [B, 4] (x, y, z, yaw): 0 or 1 on a polar fan [B, walkable_dim].

        Contact with a wall, and its side, is resolved to centimetres.
        """
        x, y, _, yaw = (value[:, None, None] for value in planar.unbind(-1))
        angle, radius = yaw + self.fan_angles, self.fan_radii
        fan = torch.stack([x + radius * angle.cos(), y + radius * angle.sin()], -1)
        return self._is_ground(fan).float().flatten(1)

    def collision_features(self, planar: Tensor, moved: Tensor) -> Tensor:
        """Collision features of cameras [B, 4] that move by ``moved`` [B, 3] (right, down, forward; metres).

        Returns [B, COLLISION_DIM]: the free share of the displacement, and how far right and forward the map
        holds the camera back; for half the displacement, then for all of it. The speed that a wall leaves
        depends on when it is hit.
        """
        start, yaw = planar[:, :2].double(), planar[:, 3].double()
        right, forward = moved[:, 0].double(), moved[:, 2].double()
        way = torch.stack(
            [right * yaw.sin() + forward * yaw.cos(), forward * yaw.sin() - right * yaw.cos()], 1
        )
        # Half the way and all of it, one below the other: as many operations as for one of them.
        ways = torch.stack([0.5 * way, way])
        spots = start[:, None] + ways[:, :, None] * self.path_fractions[:, None]
        ground = self._is_ground(spots)
        free = ground[..., 1:].long().cumprod(-1).sum(-1) / _PATH_SAMPLES
        wanted = spots[:, :, -1].flatten(0, 1)
        held = self._project_blocked(wanted, (ground[..., -1] | ~ground[..., 0]).flatten())
        back = torch.zeros_like(wanted) if held is None else held - wanted
        x, y = back.view_as(ways).unbind(-1)
        sine, cosine = yaw.sin(), yaw.cos()
        found = torch.stack([free, x * sine - y * cosine, x * cosine + y * sine], -1)  # [2, B, 3]
        return found.transpose(0, 1).flatten(1).float()

    def _nearest_ground(self, point: Tensor) -> Tensor:
        """The nearest ground to ``point`` [B, 2], [B, 2]; the point itself where there is none in reach."""
        cell, reach = self.config.cell, round(_SEARCH_RADIUS / self.config.cell)
        row, column = self._cell_of(point)
        around = torch.arange(-reach, reach + 1, device=point.device)
        rows, columns = (row[:, None, None] + around[:, None]), (column[:, None, None] + around[None])
        rows, columns = torch.broadcast_tensors(rows, columns)
        x0, y0 = self.config.bounds[:2]
        # Of each cell its point that is nearest: along a straight wall what runs along it is not rounded.
        x = _clamp_to_cell(point[:, 0, None, None], x0 + columns * cell, cell)
        y = _clamp_to_cell(point[:, 1, None, None], y0 + rows * cell, cell)
        square = (x - point[:, 0, None, None]).square() + (y - point[:, 1, None, None]).square()
        square = square.masked_fill(~self._is_ground_cell(rows, columns), torch.inf).flatten(1)
        least, index = square.min(1, keepdim=True)
        found = torch.cat([x.flatten(1).gather(1, index), y.flatten(1).gather(1, index)], 1)
        return torch.where(least.isfinite(), found, point)

    def _is_ground(self, point: Tensor) -> Tensor:
        return self._is_ground_cell(*self._cell_of(point))

    def _is_ground_cell(self, row: Tensor, column: Tensor) -> Tensor:
        height, width = self.visited.shape
        near, beside = row.clamp(0, height - 1), column.clamp(0, width - 1)
        return (self.visited[near, beside] > 0) & (near == row) & (beside == column)

    def _cell_of(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of points [..., 2]."""
        column, row = ((point - self.corner) / self.config.cell).floor().long().unbind(-1)
        return row, column


def _clamp_to_cell(value: Tensor, low: Tensor, cell: float) -> Tensor:
    """``value`` brought into the cell that begins at ``low``, a hair inside, so that it counts as of it."""
    hair = cell * 1e-3
    return torch.maximum(torch.minimum(value, low + (cell - hair)), low + hair)
