"""The decoder's network in one go; ``tokenizer.history.HistoryTokenizer.decode`` says the same in torch.

Shapes: B worlds, H x W frame, h x w its cells, N tokens, C latent channels, D width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.kernels.dense import DenseData
from worldsim.kernels.library import NoDeepcopy, Pointer, address, check_struct, kernel, shaped, workspace
from worldsim.kernels.warp import Warp
from worldsim.kernels.winograd import winograd_weights

_BLOCKS, _GROUPS, _LANES, _TILE = 8, 8, 16, 4
"""Limits of decoder.h: blocks, groups of a norm, divisor of the inputs, cells to a side of a tile."""
_SIDE_BY_SIDE = 4
"""Worlds that are decoded at once: more of them leave the caches."""


class _NormData(ctypes.Structure):
    _fields_ = (("scale", Pointer), ("shift", Pointer))


class _Data(ctypes.Structure):
    _fields_ = (
        ("input", DenseData),
        ("first", DenseData * _BLOCKS),
        ("second", DenseData * _BLOCKS),
        ("output", DenseData),
        ("norm_in", _NormData * _BLOCKS),
        ("norm_out", _NormData * _BLOCKS),
        ("norm", _NormData),
        ("depth", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("channels", ctypes.c_int32),
    )


def supports(grid: tuple[int, int], width: int, depth: int, patch: int) -> bool:
    """True where decoder.h supports such a decoder; ``grid`` is h and w."""
    whole = all(cells % _TILE == 0 for cells in grid)
    return whole and width % _LANES == 0 and 1 <= depth <= _BLOCKS and patch > 0


class DecoderKernel(NoDeepcopy):
    """A decoder, packed for decoder.h.

    Args:
        warp: the frames' geometry.
        prior_in: convolution over pixels, with stride ``patch``, kernel three and padding one times that.
        latent_in: convolution over the latent, interpolated between tokens, 3 x 3.
        blocks: first norm and convolution, second norm and convolution of each residual block.
        last: the last norm and convolution.
    """

    def __init__(
        self,
        warp: Warp,
        prior_in: nn.Conv2d,
        latent_in: nn.Conv2d,
        blocks: Sequence[tuple[nn.GroupNorm, nn.Conv2d, nn.GroupNorm, nn.Conv2d]],
        last: tuple[nn.GroupNorm, nn.Conv2d],
    ) -> None:
        self._warp, self._kept, patch = warp, list[Tensor](), prior_in.stride[0]
        if prior_in.bias is None or latent_in.bias is None:
            raise ValueError("decoder.h takes layers with a bias")
        pixels = prior_in.weight.unflatten(3, (3, patch)).unflatten(2, (3, patch)).permute(0, 1, 3, 5, 2, 4)
        both = torch.cat([pixels.flatten(1, 3), latent_in.weight], 1).detach()
        width, inputs = both.shape[:2]
        padded = both.new_zeros(width, -(-inputs // _LANES) * _LANES, 3, 3)
        padded[:, :inputs] = both
        before, first, after, second = zip(*blocks, strict=True)
        for kind, name in ((_Data, "DecoderData"), (_NormData, "NormData")):
            check_struct(kind, name)
        self._outputs, self._depth, self._width = len(last[1].weight), len(blocks), width
        self._channels = latent_in.in_channels
        self._data = _Data(
            self._conv(padded, prior_in.bias + latent_in.bias),
            (DenseData * _BLOCKS)(*(self._conv(conv.weight, conv.bias) for conv in first)),
            (DenseData * _BLOCKS)(*(self._conv(conv.weight, conv.bias) for conv in second)),
            self._conv(last[1].weight, last[1].bias),
            (_NormData * _BLOCKS)(*map(self._norm, before)),
            (_NormData * _BLOCKS)(*map(self._norm, after)),
            self._norm(last[0]),
            len(blocks),
            width,
            self._channels,
        )
        self._where = (ctypes.addressof(warp.data), ctypes.addressof(self._data))
        self._workspace_size = kernel("decoder_workspace", [Pointer, Pointer], ctypes.c_size_t)(*self._where)
        self._run = kernel("decode", [Pointer, Pointer, ctypes.c_int, *[Pointer] * 8])

    def __call__(
        self, scene_rgb: Tensor, warped: Tensor, valid: Tensor, depth: Tensor, latent: Tensor, films: Tensor
    ) -> Tensor:
        """Output of the last layer for each cell [B, h, w, outputs].

        Args:
            scene_rgb: [B, 3, H, W], see ``Warp``, as ``warped`` [B, 3, H, W] and ``valid`` [B, 1, H, W].
            depth: forward depth [B, H, W].
            latent: [B, N, C].
            films: scale and shift of each block [B, depth, 2 D].
        """
        size, tokens = self._warp.size, self._warp.tokens
        shapes = (
            *((scene_rgb, (3, *size)), (warped, (3, *size)), (valid, (1, *size)), (depth, size)),
            *((latent, (tokens, self._channels)), (films, (self._depth, 2 * self._width))),
        )
        given = [shaped(part, len(scene_rgb), *shape).float().contiguous() for part, shape in shapes]
        out = torch.empty(len(scene_rgb), *self._warp.cells, self._outputs)
        spare = address(workspace(min(len(scene_rgb), _SIDE_BY_SIDE) * self._workspace_size))
        for i in range(0, len(scene_rgb), _SIDE_BY_SIDE):
            some = slice(i, i + _SIDE_BY_SIDE)
            told = [address(part[some]) for part in (*given, out)]
            self._run(*self._where, len(out[some]), *told, spare)
        return out

    def _conv(self, weight: Tensor, bias: Tensor | None) -> DenseData:
        if bias is None:
            raise ValueError("decoder.h takes layers with a bias")
        kept = winograd_weights(weight), bias.detach().float().contiguous()
        self._kept += kept
        return DenseData(*map(address, kept), weight.shape[1], weight.shape[0], 0)

    def _norm(self, norm: nn.GroupNorm) -> _NormData:
        if norm.num_groups != _GROUPS:
            raise ValueError(f"decoder.h takes norms of {_GROUPS} groups, not {norm.num_groups}")
        kept = [part.detach().float().contiguous() for part in (norm.weight, norm.bias)]
        self._kept += kept
        return _NormData(*map(address, kept))
