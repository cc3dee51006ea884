"""Motion of cameras in one call.

``model.dynamics``, ``scene.walkable_map`` and ``sampling.motion`` are the reference in torch.

Shapes: B cameras, M keys and yaw, P past twists.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.kernels.dense import DenseData, PackedLinear
from worldsim.kernels.library import NoDeepcopy, Pointer, address, check_struct, kernel, shaped
from worldsim.kernels.render import SCENE_FEATURE_DIM, SceneRenderer

WALKABLE_DIM, COLLISION_DIM = 16 * 4, 6
"""Lengths of the walkable map's walkable and collision features (motion.h)."""
_LAYERS, _INNER, _LANES = 4, 1024, 16


class _WalkableMapData(ctypes.Structure):
    _fields_ = (
        ("visited", Pointer),
        *((name, ctypes.c_int32) for name in ("rows", "columns", "reach")),
        *((name, ctypes.c_double) for name in ("x0", "y0", "cell")),
    )


class _MotionData(ctypes.Structure):
    _fields_ = (
        ("rotation", DenseData * _LAYERS),
        ("linear", DenseData),
        ("residual", DenseData * _LAYERS),
        ("error", DenseData * _LAYERS),
        ("scale", ctypes.c_double * 6),
        *((name, ctypes.c_int32) for name in ("keys", "twists")),
        *((name, ctypes.c_float) for name in ("camera_height", "idle_damping")),
    )


class PackedWalkableMap(NoDeepcopy):
    """A walkable map, packed for motion.h.

    Args:
        visited: uint8 [rows, columns].
        corner: x and y of its first cell's corner, in metres.
        cell: side of a cell.
        reach: cells around a point among which the nearest ground is looked for.
    """

    def __init__(self, visited: Tensor, corner: tuple[float, float], cell: float, reach: int) -> None:
        check_struct(_WalkableMapData, "WalkableMapData")
        self._kept = visited.detach().contiguous()
        self.data = _WalkableMapData(address(self._kept, torch.uint8), *visited.shape, reach, *corner, cell)


class MotionKernel(NoDeepcopy):
    """Dynamics on a walkable map, packed for motion.h.

    Args:
        renderer: of the scene whose features are read.
        ground: the walkable map.
        networks: of rotation, residual and error: three linear layers with SiLU and a last.
        linear: the linear law of displacements.
        scale: what a normalised twist is multiplied by [6].
        sizes: M and P.
        camera_height: height of the camera at rest, in metres.
        idle_damping: bound of a step without keys, as a share of the last step; None: no bound.
    """

    def __init__(
        self,
        renderer: SceneRenderer,
        ground: PackedWalkableMap,
        networks: tuple[Sequence[nn.Linear], Sequence[nn.Linear], Sequence[nn.Linear]],
        linear: nn.Linear,
        scale: Sequence[float],
        sizes: tuple[int, int],
        camera_height: float,
        idle_damping: float | None,
    ) -> None:
        self._renderer, self._ground = renderer, ground
        self._layers = [[PackedLinear(layer.weight, layer.bias) for layer in network] for network in networks]
        self._linear = PackedLinear(linear.weight, linear.bias)
        rotation, residual, error = (
            (DenseData * _LAYERS)(*(layer.data for layer in some)) for some in self._layers
        )
        check_struct(_MotionData, "MotionData")
        self._sizes = sizes
        rules = (*sizes, camera_height, -1.0 if idle_damping is None else idle_damping)
        self._data = _MotionData(
            rotation, self._linear.data, residual, error, (ctypes.c_double * 6)(*scale), *rules
        )
        given = [*[Pointer] * 3, ctypes.c_int, ctypes.c_double, ctypes.c_float]
        self._run = kernel("move_cameras", [*given, *[Pointer] * 9])

    def __call__(
        self,
        poses: Tensor,
        motion_history: Tensor,
        pose_uncertainty: Tensor,
        vector: Tensor,
        max_step_ratio: float,
        max_uncertainty: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Normalised twist [B, 6], pose uncertainty [B], poses, planar [B, 4] and ``to_previous`` [B, 4, 4].

        Args:
            poses: camera-to-world, float64 [B, 4, 4].
            motion_history: past normalised twists with their keys and yaw, newest last [B, P, 6 + M].
            pose_uncertainty: metres [B].
            vector: keys and yaw of the step [B, M].
            max_step_ratio: times its usual length that a step has at most.
            max_uncertainty: upper bound of the pose uncertainty, in metres.
        """
        worlds, double = len(poses), torch.float64
        keys, twists = self._sizes
        poses = shaped(poses, worlds, 4, 4).contiguous()
        shapes = ((motion_history, (twists, 6 + keys)), (pose_uncertainty, ()), (vector, (keys,)))
        told = [shaped(part, worlds, *shape).contiguous() for part, shape in shapes]
        to = torch.empty_like(poses)
        twist, uncertainties, planar = torch.empty(worlds, 6), torch.empty(worlds), torch.empty(worlds, 4)
        to_previous = torch.empty(worlds, 4, 4)
        where = (ctypes.addressof(data) for data in (self._renderer.data, self._ground.data, self._data))
        made = map(address, (twist, uncertainties, planar, to_previous))
        given = (address(poses, double), *map(address, told), address(to, double))
        self._run(*where, worlds, max_step_ratio, max_uncertainty, *given, *made)
        return twist, uncertainties, to, planar, to_previous


def supports(inputs: int, hidden: Sequence[int], features: int, collision_dim: int) -> bool:
    """True where motion.h supports dynamics of such a longest input, hidden widths and features."""
    whole = all(width % _LANES == 0 and width <= _INNER for width in hidden)
    return (
        whole
        and inputs <= _INNER
        and (features, collision_dim) == (SCENE_FEATURE_DIM + WALKABLE_DIM, COLLISION_DIM)
    )
