"""The pixel range, here alone: ``uint8 [..., H, W, 3]`` outside, [-1, 1] ``[..., 3, H, W]`` in the model.

torch is imported where a tensor is made, so that recording workers can resize frames without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worldsim.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["resize_area", "to_frame", "to_model"]


def to_model(
    frames: np.ndarray | Tensor, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """``uint8 [..., H, W, 3]`` to a float tensor ``[..., 3, H, W]`` in [-1, 1].

    Args:
        frames: RGB frames, NumPy or torch.
        device: where to put the tensor; by default where the frames are.
        dtype: float32 by default.

    Raises:
        DataError: the frames are not uint8 or do not end in [H, W, 3].
    """
    import torch

    if isinstance(frames, np.ndarray):
        # torch cannot share a read-only or negatively strided array: those are copied.
        shareable = frames if frames.flags.writeable and frames.flags.c_contiguous else frames.copy()
        frames = torch.from_numpy(shareable)
    if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-1] != 3:
        raise DataError("frames must be uint8 [..., H, W, 3]", f"{frames.dtype} {list(frames.shape)}")
    # The move to the device comes first: a byte per channel crosses the bus, not four.
    pixels = frames.to(device).movedim(-1, -3).contiguous()
    return (pixels.float() / 127.5 - 1).to(dtype or torch.float32)


def to_frame(pixels: np.ndarray | Tensor) -> Tensor:
    """Floats ``[..., 3, H, W]`` to a ``uint8 [..., H, W, 3]`` tensor on the same device, rounded and clamped.

    Raises:
        DataError: the pixels are not floats or do not end in [3, H, W].
    """
    import torch

    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(pixels.copy())
    if not pixels.is_floating_point() or pixels.ndim < 3 or pixels.shape[-3] != 3:
        raise DataError("pixels must be floats [..., 3, H, W]", f"{pixels.dtype} {list(pixels.shape)}")
    from worldsim.kernels import image_ops, library

    if library.accepts(pixels):
        return image_ops.to_uint8(pixels)
    # float32 first: bfloat16 cannot tell neighbouring grey levels apart.
    levels = (pixels.float() + 1).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).movedim(-3, -1).contiguous()


def resize_area(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink ``uint8 [..., H, W, 3]`` to ``size = (h, w)`` by averaging whole boxes of pixels, rounded.

    Raises:
        DataError: H and W are not whole multiples of h and w.
    """
    *lead, height, width, channels = frames.shape
    h, w = size
    if h < 1 or w < 1 or height % h or width % w:
        raise DataError(f"the size must divide the frame's {height}x{width}", size, "choose a whole factor")
    if (h, w) == (height, width):
        return frames
    rows, columns = height // h, width // w
    tall = frames[..., ::rows, :, :].astype(np.uint32)
    for row in range(1, rows):
        tall += frames[..., row::rows, :, :]
    boxes = tall.reshape(*lead, h, w, columns, channels)
    small = np.empty((*lead, h, w, channels), np.uint8)
    area = rows * columns
    for channel in range(channels):  # sums along a row of one channel: NumPy's loops over three are slow
        total = boxes[..., 0, channel].copy()
        for column in range(1, columns):
            total += boxes[..., column, channel]
        small[..., channel] = (total + area // 2) // area
    return small
