"""Territory: the poses that a world covers.

Shapes: B cameras.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.scene.walkable_map import WalkableMap

_BESIDE = 0.5
"""Margin in metres beside the walkable ground, and above and below the cameras' heights."""
_TILT_STILL = math.radians(3)
"""Pitch or roll beyond those of the starts that a static scene, which is drawn level, still passes for."""
_TILT_MOVING = math.radians(15)
"""The same for a world that has no static scene: its pictures follow the camera's rotation."""
_JUMP = 10.0
"""Times the usual step: no world without a static scene knows what lies beyond that."""
_NONE = 0.1
"""Metres or radians of a step along an axis that no camera ever moved on."""


class Territory:
    """Region of poses that one world covers, from its walkable map and its starts.

    Args:
        walkable_map: the map of a static scene, None where there is none.
        scale: the usual step, six numbers in metres and radians; 0 along an axis without any.
        starts: camera-to-world poses, float64 [n, 4, 4], n >= 1.
    """

    def __init__(self, walkable_map: WalkableMap | None, scale: Sequence[float], starts: Tensor) -> None:
        usual = starts.new_tensor(scale)
        margin = _TILT_MOVING if walkable_map is None else _TILT_STILL
        tilt = torch.arccos(_up(starts).clamp(-1, 1)).max() + margin
        self._least_up = torch.cos(tilt.clamp(max=math.pi))
        self._farthest = torch.where(usual > 0, _JUMP, _NONE)
        height = starts[:, 2, 3]
        self._lowest, self._highest = height.min() - _BESIDE, height.max() + _BESIDE
        self._ground: Tensor | None = None
        if walkable_map is not None and bool(walkable_map.visited.any()):
            self._ground, self._corner = _grown(walkable_map), walkable_map.corner.to(starts.device)
            self._cell = walkable_map.config.cell

    def contains(self, poses: Tensor, twist: Tensor, given: Tensor | None) -> Tensor:
        """Cameras within the territory, bool [B]; frames from elsewhere have no basis in the data.

        Args:
            poses: camera-to-world, float64 [B, 4, 4].
            twist: the normalised steps that led there [B, 6].
            given: which poses were explicit, bool [B]; None: none.
        """
        level = _up(poses) >= self._least_up
        if self._ground is None:
            near = (twist.abs() <= self._farthest).all(1)
            return level & (near if given is None else near | ~given)
        height = poses[:, 2, 3]
        return level & (height >= self._lowest) & (height <= self._highest) & self._is_ground(poses)

    def _is_ground(self, poses: Tensor) -> Tensor:
        assert self._ground is not None
        rows, columns = self._ground.shape
        cells = ((poses[:, :2, 3] - self._corner) / self._cell).floor()
        column, row = cells[:, 0].clamp(-1, columns), cells[:, 1].clamp(-1, rows)
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        return self._ground[row.long().clamp(0, rows - 1), column.long().clamp(0, columns - 1)] & inside


def _up(poses: Tensor) -> Tensor:
    """Cosine of the angle between a camera's up and the world's [B]."""
    return -poses[:, 2, 1]


def _grown(walkable_map: WalkableMap) -> Tensor:
    """The map with what lies beside its ground, bool [rows, columns]."""
    reach = round(_BESIDE / walkable_map.config.cell)
    visited = walkable_map.visited[None, None].float()
    return F.max_pool2d(visited, 2 * reach + 1, 1, reach)[0, 0] > 0
