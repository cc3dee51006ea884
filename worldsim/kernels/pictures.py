"""Pictures moved along with the camera, in one go; ``tokenizer.history`` says the same in torch.

Shapes: B worlds, H x W frame, h x w its cells, N tokens.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from worldsim.camera import Intrinsics
from worldsim.kernels.library import Fixed, Pointer, address, check_struct, kernel, room, shaped


class _Data(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("right", "down")),
        *((name, ctypes.c_int32) for name in ("rows", "columns", "patch", "pool")),
        *((name, ctypes.c_float) for name in ("across", "along", "left", "top")),
    )


class Pictures(Fixed):
    """What is seen again, and the frame that is made of it.

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
        self._recall = kernel("recall", [Pointer, Pointer, ctypes.c_int, *[Pointer] * 9])
        self._compose = kernel("compose", [Pointer, ctypes.c_int, *[Pointer] * 8])
        self._room = kernel("compose_room", [Pointer], ctypes.c_size_t)(ctypes.addressof(self.data))

    def recall(
        self, back: Tensor, reach: Tensor, prior: Tensor, frame: Tensor, past_reach: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the past shows of a new frame.

        Args:
            back: points of the new camera to points of the previous one [B, 4, 4].
            reach: forward depth of the new frame [B, H, W].
            prior: what memory of the place says of it [B, 3, H, W].
            frame: the previous frame [B, 3, H, W].
            past_reach: its forward depth [B, H, W].

        Returns:
            The previous frame moved along [B, 3, H, W], how far that is to be believed [B, 1, H, W], where it
            was read [B, H, W, 2], and means of the cells of ``prior`` and of the first, [B, N, 6 pool^2].
        """
        worlds, size = len(reach), self.size
        shapes = ((reach, size), (prior, (3, *size)), (frame, (3, *size)), (past_reach, size))
        given = [shaped(part, worlds, *shape).contiguous() for part, shape in shapes]
        warped, valid = torch.empty(worlds, 3, *self.size), torch.empty(worlds, 1, *self.size)
        grid = torch.empty(worlds, *self.size, 2)
        tokens = torch.empty(worlds, self.tokens, 6 * self._pool**2)
        made, back = (warped, valid, grid, tokens), shaped(back, worlds, 4, 4).contiguous()
        addresses = map(address, (*given, *made, room(4 * reach.numel())))
        self._recall(ctypes.addressof(self.data), address(back), worlds, *addresses)
        return made

    def compose(
        self, out: Tensor, latent: Tensor, prior: Tensor, valid: Tensor, grid: Tensor, past: Tensor
    ) -> Tensor:
        """The new frame [B, 3, H, W], within [-1, 1].

        Args:
            out: what the decoder's last layer says of each cell [B, h, w, 2 + 4 patch^2]: flow, trust, paint.
            latent: what the code paints by itself [B, N, 3 (patch pool)^2].
            prior: see ``recall``, as ``valid`` [B, 1, H, W] and ``grid`` [B, H, W, 2].
            past: the previous frame [B, 3, H, W].
        """
        worlds, size, cells = len(out), self.size, self.cells
        patch = size[0] // cells[0]
        painted = (self.tokens, 3 * (patch * self._pool) ** 2)
        shapes = (
            *((out, (*cells, 2 + 4 * patch**2)), (latent, painted), (prior, (3, *size))),
            *((valid, (1, *size)), (grid, (*size, 2)), (past, (3, *size))),
        )
        given = [shaped(part, worlds, *shape).float().contiguous() for part, shape in shapes]
        frame = torch.empty(len(out), 3, *self.size)
        spare = room(len(out) * self._room)
        self._compose(ctypes.addressof(self.data), len(out), *map(address, (*given, frame, spare)))
        return frame
