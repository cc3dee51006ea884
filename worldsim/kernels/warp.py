"""Warp and blend of frames in one call each; ``tokenizer.history`` is the reference in torch.

Shapes: B worlds, H x W frame, h x w its cells, N tokens.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from worldsim.camera import Intrinsics
from worldsim.kernels.library import NoDeepcopy, Pointer, address, check_struct, kernel, shaped, workspace


class _Data(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("right", "down")),
        *((name, ctypes.c_int32) for name in ("rows", "columns", "patch", "pool")),
        *((name, ctypes.c_float) for name in ("across", "along", "left", "top")),
    )


class Warp(NoDeepcopy):
    """The warp of the previous frame, and the blend that makes the new one.

    Args:
        camera: its lengths are in pixels of a frame.
        right: rays of the columns [W], per unit of forward depth.
        down: rays of the rows [H].
        patch: pixels to a side of a cell.
        pool: cells to a side of a token.
    """

    def __init__(self, camera: Intrinsics, right: Tensor, down: Tensor, patch: int, pool: int) -> None:
        self._right, self._down, self._pool = right, down, pool
        self.size = height, width = len(down), len(right)
        self.cells = height // patch, width // patch
        self.tokens = height * width // (patch * pool) ** 2
        scales = (2 * camera.fx / width, 2 * camera.fy / height)
        middle = (2 * camera.cx / width - 1, 2 * camera.cy / height - 1)
        check_struct(_Data, "CameraData")
        self.data = _Data(address(right), address(down), height, width, patch, pool, *scales, *middle)
        self._warp = kernel("warp", [Pointer, Pointer, ctypes.c_int, *[Pointer] * 9])
        self._blend = kernel("blend", [Pointer, ctypes.c_int, *[Pointer] * 8])
        self._workspace_size = kernel("blend_workspace", [Pointer], ctypes.c_size_t)(
            ctypes.addressof(self.data)
        )

    def warp(
        self, to_previous: Tensor, depth: Tensor, scene_rgb: Tensor, frame: Tensor, previous_depth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Warp the previous frame to the new camera.

        Args:
            to_previous: points of the new camera to points of the previous one [B, 4, 4].
            depth: forward depth of the new frame [B, H, W].
            scene_rgb: the static scene, rendered for it [B, 3, H, W].
            frame: the previous frame [B, 3, H, W].
            previous_depth: its forward depth [B, H, W].

        Returns:
            The previous frame moved along [B, 3, H, W], how far that is to be believed [B, 1, H, W], where it
            was read [B, H, W, 2], and means of the cells of ``scene_rgb`` and of the first, [B, N, 6 pool^2].
        """
        worlds, size = len(depth), self.size
        shapes = ((depth, size), (scene_rgb, (3, *size)), (frame, (3, *size)), (previous_depth, size))
        given = [shaped(part, worlds, *shape).contiguous() for part, shape in shapes]
        warped, confidence = torch.empty(worlds, 3, *self.size), torch.empty(worlds, 1, *self.size)
        grid = torch.empty(worlds, *self.size, 2)
        tokens = torch.empty(worlds, self.tokens, 6 * self._pool**2)
        made, to_previous = (warped, confidence, grid, tokens), shaped(to_previous, worlds, 4, 4).contiguous()
        addresses = map(address, (*given, *made, workspace(4 * depth.numel())))
        self._warp(ctypes.addressof(self.data), address(to_previous), worlds, *addresses)
        return made

    def blend(
        self,
        out: Tensor,
        latent: Tensor,
        scene_rgb: Tensor,
        confidence: Tensor,
        grid: Tensor,
        previous: Tensor,
    ) -> Tensor:
        """The new frame [B, 3, H, W], within [-1, 1].

        Args:
            out: what the decoder's last layer says of each cell [B, h, w, 2 + 4 patch^2]: flow, trust, paint.
            latent: what the code paints by itself [B, N, 3 (patch pool)^2].
            scene_rgb: see ``warp``, as ``confidence`` [B, 1, H, W] and ``grid`` [B, H, W, 2].
            previous: the previous frame [B, 3, H, W].
        """
        worlds, size, cells = len(out), self.size, self.cells
        patch = size[0] // cells[0]
        painted = (self.tokens, 3 * (patch * self._pool) ** 2)
        shapes = (
            *((out, (*cells, 2 + 4 * patch**2)), (latent, painted), (scene_rgb, (3, *size))),
            *((confidence, (1, *size)), (grid, (*size, 2)), (previous, (3, *size))),
        )
        given = [shaped(part, worlds, *shape).float().contiguous() for part, shape in shapes]
        frame = torch.empty(len(out), 3, *self.size)
        spare = workspace(len(out) * self._workspace_size)
        self._blend(ctypes.addressof(self.data), len(out), *map(address, (*given, frame, spare)))
        return frame
