"""What a place shows, in one go; ``tokenizer.place.Place`` says the same in torch.

Shapes: B views, R rows, N columns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from worldsim.kernels.library import Fixed, Pointer, address, check_struct, kernel, room, shaped

CHANNELS, HIDDEN = 16, 64
"""Of the planes and of the colour network that look.h is written for."""

AROUND = 16 * 6 + CHANNELS
"""Length of what is around a camera (move.h)."""

TENSORS = (
    "occupancy", "ground", "level", "wall_x", "wall_y", "depths", "column", "column_bias", "above", "below",
    "middle", "middle_bias", "last", "last_bias",
)  # fmt: skip
NUMBERS = ("floor", "ceiling", "x0", "y0", "across", "along", "solid")
_SIZES = ("rows", "columns", "level_rows", "level_columns", "rise", "wall_columns", "wall_rows", "samples")
_COLUMN = 5 + HIDDEN
"""Floats of the room that look.h takes for a column."""


class _Data(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in TENSORS),
        *((name, ctypes.c_int32) for name in _SIZES),
        *((name, ctypes.c_float) for name in NUMBERS),
    )


class Look(Fixed):
    """A place as look.h takes it.

    Args:
        tensors: ``TENSORS``, float32: occupancy [h, w], planes [h, w, CHANNELS], depths [S]; weights are
            [inputs, outputs], but the last [3, HIDDEN].
        numbers: ``NUMBERS``; lengths in metres, ``x0`` and ``y0`` the middle of the planes.
    """

    def __init__(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        self._kept = {name: tensors[name].detach().float().contiguous() for name in TENSORS}
        check_struct(_Data, "PlaceData")
        self.data = _Data(*map(address, self._kept.values()), *self._sizes(), *(numbers[n] for n in NUMBERS))
        views = [ctypes.c_int, Pointer, ctypes.c_int, Pointer, ctypes.c_int, ctypes.c_int]
        self._run = kernel("look", [Pointer, Pointer, *views, Pointer, Pointer, Pointer])
        self._surround = kernel("surroundings", [Pointer, Pointer, ctypes.c_int, Pointer])

    def __call__(self, planar: Tensor, right: Tensor, down: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """Colour [B, 3, R, N] and forward depth [B, R, N] seen from ``planar`` [B, 4].

        ``right`` [N] and ``down`` [R] are the rays, of which the first ``horizon`` rows look up.
        """
        views, rows, columns = len(planar), len(down), len(right)
        planar = shaped(planar, views, 4).contiguous()
        colour, reach = torch.empty(views, 3, rows, columns), torch.empty(views, rows, columns)
        rays = (address(right), columns, address(down), rows, horizon)
        given = (ctypes.addressof(self.data), address(planar), views, *rays)
        self._run(*given, address(colour), address(reach), address(room(views * columns * _COLUMN)))
        return colour, reach

    def surroundings(self, planar: Tensor) -> Tensor:
        """What is around cameras ``planar`` [B, 4]: occupancy on a fan, then ground features, [B, AROUND]."""
        planar, around = shaped(planar, len(planar), 4).contiguous(), torch.empty(len(planar), AROUND)
        self._surround(ctypes.addressof(self.data), address(planar), len(planar), address(around))
        return around

    def _sizes(self) -> tuple[int, ...]:
        kept = self._kept
        planes, level, wall_x = kept["occupancy"].shape, kept["level"].shape, kept["wall_x"].shape
        return (*planes, *level[:2], *wall_x[:2], kept["wall_y"].shape[1], len(kept["depths"]))
