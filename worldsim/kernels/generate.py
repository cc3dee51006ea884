"""A pass of the generator in one go; ``model.transformer.Transformer`` says the same in torch.

Shapes: B worlds, N tokens, R registers, C latent channels, D width, L blocks, P passes, A heads, d channels
of a head, T blocks that look back, W frames of past.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.kernels.dense import DenseData, Packed
from worldsim.kernels.library import Fixed, Pointer, address, check_struct, kernel, room, shaped

PAST = 65536
"""Frames of past that kernels look back at, at most: one number for each lies on a thread's stack."""
_LAYERS, _ROWS, _SIDE = 16, 256, 64
"""At most so many blocks, tokens and registers, and channels of a head (generate.h)."""
_LANES, _PANEL = 16, 64
_SIDE_BY_SIDE = 4
"""Worlds that pass at once: more of them leave the caches."""


class _BlockData(ctypes.Structure):
    _fields_ = (
        ("into", DenseData),
        ("back", DenseData),
        ("norm", Pointer),
        ("looks", ctypes.c_int32),
        ("hidden", ctypes.c_int32),
    )


class _Data(ctypes.Structure):
    _fields_ = (
        ("enter", DenseData),
        ("leave", DenseData),
        *((name, Pointer) for name in ("registers", "norm", "turn")),
        ("blocks", _BlockData * _LAYERS),
        *((name, ctypes.c_int32) for name in ("layers", "width", "heads", "side", "tokens", "rows")),
    )


class _PastData(ctypes.Structure):
    _fields_ = (("keys", Pointer), ("values", Pointer), ("filled", Pointer), ("frames", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Of a block."""

    into: Tensor
    """[outputs, D]: queries and keys, values, both halves of the SwiGLU."""
    back: Tensor
    """[D, inputs]"""
    norm: Tensor
    """Of queries and keys, [2 looks, d]."""
    looks: int
    """2 where it looks back, else 1."""
    hidden: int
    """Of the SwiGLU."""


Past = tuple[Tensor, Tensor, Tensor]
"""Of a block that looks back: turned keys and values, float32 [B, W, N + R, A, d], which are there [B, W]."""


def suits(width: int, side: int, rows: int, hidden: int, layers: int) -> bool:
    """Whether generate.h is written for such a generator."""
    small = side <= _SIDE and rows <= _ROWS and layers <= _LAYERS
    return small and width % _PANEL == 0 and side % _LANES == 0 and (2 * hidden) % _PANEL == 0


class Passes(Fixed):
    """A generator as generate.h takes it.

    Args:
        enter: weight [D, C] and bias [D] of the layer that latents enter by.
        leave: weight [C, D] and bias [C] of the one they leave by.
        registers: [R, D].
        norm: of the last norm [D].
        turn: what turns spatial queries and keys, complex [N + R, d / 2].
        blocks: one by one.
    """

    def __init__(
        self,
        enter: tuple[Tensor, Tensor],
        leave: tuple[Tensor, Tensor],
        registers: Tensor,
        norm: Tensor,
        turn: Tensor,
        blocks: Sequence[BlockWeights],
    ) -> None:
        for kind, name in ((_Data, "GeneratorData"), (_BlockData, "BlockData"), (_PastData, "PastData")):
            check_struct(kind, name)
        ends = Packed(*enter), Packed(*leave)
        both = [(Packed(block.into), Packed(block.back)) for block in blocks]
        turned = torch.view_as_real(turn).flatten(1)
        plain = [part.detach().float().contiguous() for part in (registers, norm, turned)]
        norms = [block.norm.detach().float().flatten(1).contiguous() for block in blocks]
        self._kept = (ends, both, plain, norms)
        self._channels, self._layers = ends[0].inputs, len(blocks)
        self._width, self._side, self._rows = len(norm), turned.shape[1], len(turned)
        self._heads, self._tokens = self._width // self._side, self._rows - len(registers)
        told = [
            _BlockData(into.data, back.data, address(norm), block.looks, block.hidden)
            for (into, back), norm, block in zip(both, norms, blocks, strict=True)
        ]
        sizes = (len(blocks), self._width, self._heads, self._side, self._tokens, self._rows)
        listed = (_BlockData * _LAYERS)(*told)
        self._data = _Data(ends[0].data, ends[1].data, *map(address, plain), listed, *sizes)
        self._looking = sum(block.looks == 2 for block in blocks)
        self._room = kernel("generate_room", [Pointer], ctypes.c_size_t)(ctypes.addressof(self._data))
        given = [Pointer, ctypes.c_int, *[Pointer] * 3, ctypes.c_int, Pointer, ctypes.c_int]
        self._run = kernel("generate", [*given, *[Pointer] * 5])

    def __call__(
        self, latent: Tensor, embedded: Tensor, modulation: Tensor, pasts: Sequence[Past], remembers: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The clean latent [B, N, C], the agent token [B, D], keys and values [T, B, N + R, A, d].

        Args:
            latent: [B, N, C].
            embedded: what is known of the frame [B, N, D].
            modulation: of this pass [B, 3, L, D], which may be one of several [B, P, 3, L, D].
            pasts: of the blocks that look back.
            remembers: whether keys and values are all that is wanted; the rest then means nothing.
        """
        worlds = len(latent)
        modulation = modulation if modulation[0].is_contiguous() else modulation.contiguous()
        latent = shaped(latent, worlds, self._tokens, self._channels).float().contiguous()
        embedded = shaped(embedded, worlds, self._tokens, self._width).contiguous()
        shaped(modulation, worlds, *modulation.shape[1:-3], 3, self._layers, self._width)
        looked = [self._checked(past, worlds) for past in pasts]
        clean, agent, pages = torch.empty_like(latent), torch.empty(worlds, self._width), list[Tensor]()
        spare = address(room(min(worlds, _SIDE_BY_SIDE) * self._room))
        for i in range(0, worlds, _SIDE_BY_SIDE):
            some = slice(i, i + _SIDE_BY_SIDE)
            count = len(clean[some])
            pages.append(torch.empty(2, self._looking, count, self._rows, self._heads, self._side))
            told = (_PastData * len(looked))(*(self._past(past, i) for past in looked))
            begun = (address(latent[some]), address(embedded[some]), modulation[some].data_ptr())
            made = map(address, (clean[some], agent[some], *pages[-1]))
            given = (ctypes.addressof(self._data), count, *begun, modulation.stride(0))
            self._run(*given, ctypes.addressof(told), remembers, *made, spare)
        keys, values = pages[0] if len(pages) == 1 else torch.cat(pages, 2)
        return clean, agent, keys, values

    def _checked(self, past: Past, worlds: int) -> list[Tensor]:
        """A past, all of whose parts are as large as the kernel takes them for."""
        keys, values, filled = past
        frames = filled.shape[1]
        for part in (keys, values):
            shaped(part, worlds, frames, self._rows, self._heads, self._side)
        return [part.contiguous() for part in (keys, values, shaped(filled, worlds, frames))]

    def _past(self, past: Sequence[Tensor], first: int) -> _PastData:
        keys, values, filled = past
        where = (address(keys[first:]), address(values[first:]), filled[first:].data_ptr())
        return _PastData(*where, filled.shape[1])
