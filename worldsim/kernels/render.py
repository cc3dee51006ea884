"""Rendering of a static scene in one call; ``scene.static_scene.StaticScene`` is the reference in torch.

Shapes: B views, R rows, N columns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from worldsim.kernels.library import NoDeepcopy, Pointer, address, check_struct, kernel, shaped, workspace

CHANNELS, HIDDEN = 16, 64
"""Channels of the planes and width of the colour network that render.h supports."""

SCENE_FEATURE_DIM = 16 * 6 + CHANNELS
"""Length of a camera's scene features (motion.h)."""

TENSORS = (
    "occupancy", "ground_plane", "floor_ceiling_plane", "xz_plane", "yz_plane", "depths", "column_in",
    "column_bias", "above_horizon_in", "below_horizon_in", "middle", "middle_bias", "last", "last_bias",
)  # fmt: skip
NUMBERS = ("floor", "ceiling", "centre_x", "centre_y", "scale_x", "scale_y", "surface_level")
_SIZES = (
    "rows",
    "columns",
    "floor_ceiling_rows",
    "floor_ceiling_columns",
    "rise",
    "wall_columns",
    "wall_rows",
    "samples",
)
_COLUMN_FLOATS = 5 + HIDDEN
"""Floats of workspace that render.h needs per column."""


class _Data(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in TENSORS),
        *((name, ctypes.c_int32) for name in _SIZES),
        *((name, ctypes.c_float) for name in NUMBERS),
    )


class SceneRenderer(NoDeepcopy):
    """A static scene, packed for render.h.

    Args:
        tensors: ``TENSORS``, float32: occupancy [h, w], planes [h, w, CHANNELS], depths [S]; weights are
            [inputs, outputs], but the last [3, HIDDEN].
        numbers: ``NUMBERS``; lengths in metres, ``centre_x`` and ``centre_y`` the middle of the planes.
    """

    def __init__(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        self._kept = {name: tensors[name].detach().float().contiguous() for name in TENSORS}
        check_struct(_Data, "SceneData")
        self.data = _Data(*map(address, self._kept.values()), *self._sizes(), *(numbers[n] for n in NUMBERS))
        views = [ctypes.c_int, Pointer, ctypes.c_int, Pointer, ctypes.c_int, ctypes.c_int]
        self._run = kernel("render", [Pointer, Pointer, *views, Pointer, Pointer, Pointer])
        self._features = kernel("scene_features", [Pointer, Pointer, ctypes.c_int, Pointer])

    def __call__(self, planar: Tensor, right: Tensor, down: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """Colour [B, 3, R, N] and forward depth [B, R, N] seen from ``planar`` [B, 4].

        ``right`` [N] and ``down`` [R] are the rays, of which the first ``horizon`` rows look up.
        """
        views, rows, columns = len(planar), len(down), len(right)
        planar = shaped(planar, views, 4).contiguous()
        colour, depth = torch.empty(views, 3, rows, columns), torch.empty(views, rows, columns)
        rays = (address(right), columns, address(down), rows, horizon)
        given = (ctypes.addressof(self.data), address(planar), views, *rays)
        self._run(
            *given, address(colour), address(depth), address(workspace(views * columns * _COLUMN_FLOATS))
        )
        return colour, depth

    def features(self, planar: Tensor) -> Tensor:
        """Scene features of cameras ``planar`` [B, 4]: occupancy on a fan, then ground features."""
        planar, around = (
            shaped(planar, len(planar), 4).contiguous(),
            torch.empty(len(planar), SCENE_FEATURE_DIM),
        )
        self._features(ctypes.addressof(self.data), address(planar), len(planar), address(around))
        return around

    def _sizes(self) -> tuple[int, ...]:
        kept = self._kept
        planes, level, xz_plane = (
            kept["occupancy"].shape,
            kept["floor_ceiling_plane"].shape,
            kept["xz_plane"].shape,
        )
        return (*planes, *level[:2], *xz_plane[:2], kept["yz_plane"].shape[1], len(kept["depths"]))
