"""The frame VAE's decoder in one go; ``tokenizer.vae.VaeTokenizer.reconstruct`` says the same in torch.

Of decoders with one latent a frame.

Shapes: B worlds, C latent channels, gh x gw blocks, E bottleneck, h x w cells, D width, H x W frame.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.kernels.dense import DenseData, PackedLinear, pack_panels
from worldsim.kernels.library import NoDeepcopy, Pointer, address, check_struct, kernel, shaped, workspace
from worldsim.kernels.winograd import winograd_weights

_CONVOLUTIONS, _PIXELS, _LANES = 8, 192, 16
"""Limits of vae_decoder.h: convolutions, numbers in a cell's pixels, divisor of the widths."""
_SIDE_BY_SIDE = 3
"""Worlds that are decoded at once: more of them leave the caches."""


class _Data(ctypes.Structure):
    _fields_ = (
        ("input", DenseData),
        ("unpool", Pointer),
        ("position", Pointer),
        ("convs", DenseData * _CONVOLUTIONS),
        ("output", DenseData),
        *((name, ctypes.c_int32) for name in ("depth", "width", "bottleneck", "pool", "patch")),
        *((name, ctypes.c_int32) for name in ("rows", "columns", "height", "across")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeWeights:
    """Weights of a decoder, from a latent to pixels."""

    latent_in: tuple[Tensor, Tensor]
    """Latent to blocks: weight [E * gh * gw, C] and bias, the bottleneck's channels outermost."""
    unpool: tuple[Tensor, Tensor]
    """Blocks to their cells: weight [D * pool * pool, E] and bias, as a pixel shuffle takes them."""
    position: Tensor
    """Position bias of the cells [D, h, w]."""
    convs: Sequence[tuple[Tensor, Tensor]]
    """3x3 convolutions [D, D, 3, 3] of what is rectified, and their biases, both times the gain."""
    pixels_out: tuple[Tensor, Tensor]
    """Cells to pixels: weight [3 * patch * patch, D] and bias, as a pixel shuffle takes them."""


def supports(width: int, depth: int, patch: int) -> bool:
    """True where vae_decoder.h supports such a decoder."""
    return width % _LANES == 0 and depth <= _CONVOLUTIONS and 3 * patch**2 <= _PIXELS


class VaeDecoderKernel(NoDeepcopy):
    """A decoder, packed for vae_decoder.h.

    Args:
        weights: its weights.
        blocks: gh and gw.
        size: height and width of a frame.
        patch: pixels to a side of a cell.
    """

    def __init__(
        self, weights: VaeWeights, blocks: tuple[int, int], size: tuple[int, int], patch: int
    ) -> None:
        check_struct(_Data, "VaeData")
        self._size, (rows, columns), (width, high, _) = size, blocks, weights.position.shape
        pool, bottleneck = high // rows, weights.unpool[0].shape[1]
        weight, bias = (part.unflatten(0, (bottleneck, -1)).transpose(0, 1) for part in weights.latent_in)
        enter = PackedLinear(weight.flatten(0, 1), bias.flatten())
        of_spots, biases = (part.detach().float().unflatten(0, (width, -1)) for part in weights.unpool)
        spread = pack_panels(of_spots.transpose(0, 1))
        shifts = biases.unflatten(1, (pool, pool)).repeat(1, rows, columns)
        position = (weights.position.detach().float() + shifts).permute(1, 2, 0).contiguous()
        convs = [
            (winograd_weights(conv), shift.detach().float().contiguous()) for conv, shift in weights.convs
        ]
        leave = PackedLinear(*weights.pixels_out)
        told = [DenseData(*map(address, conv), width, width, 0) for conv in convs]
        self._kept = (enter, spread, position, convs, leave)
        self._channels = enter.inputs
        self._data = _Data(
            enter.data,
            address(spread),
            address(position),
            (DenseData * _CONVOLUTIONS)(*told),
            leave.data,
            *(len(convs), width, bottleneck, pool, patch),
            *(rows, columns, *size),
        )
        self._where = ctypes.addressof(self._data)
        self._workspace_size = kernel("vae_workspace", [Pointer], ctypes.c_size_t)(self._where)
        self._run = kernel("vae_decode", [Pointer, ctypes.c_int, *[Pointer] * 3])

    def __call__(self, latent: Tensor) -> Tensor:
        """Frames [B, 3, H, W] of raw latents [B, C]."""
        count = len(latent)
        given = shaped(latent, count, self._channels).float().contiguous()
        frames = torch.empty(count, 3, *self._size)
        spare = address(workspace(min(count, _SIDE_BY_SIDE) * self._workspace_size))
        for i in range(0, count, _SIDE_BY_SIDE):
            some = slice(i, i + _SIDE_BY_SIDE)
            self._run(self._where, len(given[some]), address(given[some]), address(frames[some]), spare)
        return frames
