"""A pass of the transformer in one call; ``model.transformer.Transformer`` is the reference in torch.

Shapes: B worlds, N tokens, R registers, C latent channels, D width, L blocks, P passes, A heads, d channels
of a head, T temporal blocks, W frames of past.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.kernels.dense import DenseData, PackedLinear
from worldsim.kernels.library import (
    UNBOUNDED,
    NoDeepcopy,
    Pointer,
    address,
    check_struct,
    kernel,
    shaped,
    workspace,
)

MAX_CONTEXT = 65536
"""Largest context of the kernels, in frames: they keep one number per frame on the stack."""
_LAYERS, _ROWS, _HEAD_DIM = 16, 256, 64
"""Limits of generator.h: blocks, tokens and registers, channels of a head."""
_LANES, _PANEL = 16, 64
_SIDE_BY_HEAD_DIM = 4
"""Worlds in one call: more of them would not fit the CPU's caches."""


class _BlockData(ctypes.Structure):
    _fields_ = (
        ("in_proj", DenseData),
        ("out_proj", DenseData),
        ("norm", Pointer),
        ("attentions", ctypes.c_int32),
        ("hidden", ctypes.c_int32),
    )


class _Data(ctypes.Structure):
    _fields_ = (
        ("input", DenseData),
        ("output", DenseData),
        *((name, Pointer) for name in ("registers", "norm", "rope")),
        ("blocks", _BlockData * _LAYERS),
        *((name, ctypes.c_int32) for name in ("layers", "width", "heads", "head_dim", "tokens", "rows")),
    )


class _LayerKVData(ctypes.Structure):
    _fields_ = (("keys", Pointer), ("values", Pointer), ("filled", Pointer), ("frames", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Weights of a block."""

    in_proj: Tensor
    """[outputs, D]: queries and keys, values, both halves of the SwiGLU."""
    out_proj: Tensor
    """[D, inputs]"""
    norm: Tensor
    """Norm weights of queries and keys, [2 attentions, d]."""
    attentions: int
    """2 in a block with temporal attention, else 1."""
    hidden: int
    """Hidden width of the SwiGLU."""


KernelKV = tuple[Tensor, Tensor, Tensor]
"""Past of a temporal block: rotated keys, values, both float32 [B, W, N + R, A, d], and a mask [B, W]."""


def supports(width: int, head_dim: int, rows: int, hidden: int, layers: int) -> bool:
    """True where generator.h supports such a generator."""
    small = head_dim <= _HEAD_DIM and rows <= _ROWS and layers <= _LAYERS
    return small and width % _PANEL == 0 and head_dim % _LANES == 0 and (2 * hidden) % _PANEL == 0


class GeneratorKernel(NoDeepcopy):
    """A transformer, packed for generator.h.

    Args:
        latent_in: weight [D, C] and bias [D] of the layer that latents enter by.
        latent_out: weight [C, D] and bias [C] of the one they leave by.
        registers: [R, D].
        norm: of the last norm [D].
        rope: rotation of spatial queries and keys, complex [N + R, d / 2].
        blocks: one by one.
    """

    def __init__(
        self,
        latent_in: tuple[Tensor, Tensor],
        latent_out: tuple[Tensor, Tensor],
        registers: Tensor,
        norm: Tensor,
        rope: Tensor,
        blocks: Sequence[BlockWeights],
    ) -> None:
        for kind, name in (
            (_Data, "GeneratorData"),
            (_BlockData, "BlockData"),
            (_LayerKVData, "LayerKVData"),
        ):
            check_struct(kind, name)
        ends = PackedLinear(*latent_in), PackedLinear(*latent_out)
        both = [(PackedLinear(block.in_proj), PackedLinear(block.out_proj)) for block in blocks]
        turned = torch.view_as_real(rope).flatten(1)
        plain = [part.detach().float().contiguous() for part in (registers, norm, turned)]
        norms = [block.norm.detach().float().flatten(1).contiguous() for block in blocks]
        self._kept = (ends, both, plain, norms)
        self._channels, self._layers = ends[0].inputs, len(blocks)
        self._width, self._head_dim, self._rows = len(norm), turned.shape[1], len(turned)
        self._heads, self._tokens = self._width // self._head_dim, self._rows - len(registers)
        told = [
            _BlockData(in_proj.data, out_proj.data, address(norm), block.attentions, block.hidden)
            for (in_proj, out_proj), norm, block in zip(both, norms, blocks, strict=True)
        ]
        sizes = (len(blocks), self._width, self._heads, self._head_dim, self._tokens, self._rows)
        listed = (_BlockData * _LAYERS)(*told)
        self._data = _Data(ends[0].data, ends[1].data, *map(address, plain), listed, *sizes)
        self._temporal_layers = sum(block.attentions == 2 for block in blocks)
        self._workspace_size = kernel("generator_workspace", [Pointer], ctypes.c_size_t)(
            ctypes.addressof(self._data)
        )
        given = [Pointer, ctypes.c_int, *[Pointer] * 3, ctypes.c_int, Pointer, ctypes.c_int]
        self._run = kernel("generate", [*given, *[Pointer] * 5])

    def __call__(
        self, latent: Tensor, embedded: Tensor, modulation: Tensor, pasts: Sequence[KernelKV], kv_only: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The clean latent [B, N, C], the agent token [B, D], keys and values [T, B, N + R, A, d].

        Args:
            latent: [B, N, C].
            embedded: what is known of the frame [B, N, D].
            modulation: of this pass [B, 3, L, D], which may be one of several [B, P, 3, L, D].
            pasts: keys and values of the temporal blocks.
            kv_only: compute keys and values only; the other results are then undefined.
        """
        worlds = len(latent)
        modulation = modulation if modulation[0].is_contiguous() else modulation.contiguous()
        latent = shaped(latent, worlds, self._tokens, self._channels).float().contiguous()
        embedded = shaped(embedded, worlds, self._tokens, self._width).contiguous()
        shaped(modulation, worlds, *modulation.shape[1:-3], 3, self._layers, self._width)
        checked = [self._checked(past, worlds) for past in pasts]
        clean, agent, parts = torch.empty_like(latent), torch.empty(worlds, self._width), list[Tensor]()
        spare = address(workspace(min(worlds, _SIDE_BY_HEAD_DIM) * self._workspace_size))
        for i in range(0, worlds, _SIDE_BY_HEAD_DIM):
            some = slice(i, i + _SIDE_BY_HEAD_DIM)
            count = len(clean[some])
            parts.append(
                torch.empty(2, self._temporal_layers, count, self._rows, self._heads, self._head_dim)
            )
            told = (_LayerKVData * len(checked))(*(self._past(past, i) for past in checked))
            begun = (address(latent[some]), address(embedded[some]), modulation[some].data_ptr())
            made = map(address, (clean[some], agent[some], *parts[-1]))
            given = (ctypes.addressof(self._data), count, *begun, modulation.stride(0))
            self._run(*given, ctypes.addressof(told), kv_only, *made, spare)
        keys, values = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        return clean, agent, keys, values

    def _checked(self, past: KernelKV, worlds: int) -> list[Tensor]:
        """Check the shapes of a past and make it contiguous."""
        keys, values, filled = past
        frames = filled.shape[1]
        for part in (keys, values):
            shaped(part, worlds, frames, self._rows, self._heads, self._head_dim)
        return [part.contiguous() for part in (keys, values, shaped(filled, worlds, frames))]

    def _past(self, past: Sequence[Tensor], first: int) -> _LayerKVData:
        keys, values, filled = past
        rows = (address(part[first:], most=UNBOUNDED) for part in (keys, values))
        where = (*rows, filled[first:].data_ptr())
        return _LayerKVData(*where, filled.shape[1])
