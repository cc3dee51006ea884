"""Matrix products whose rows do not depend on the rows beside them, not even in the last bit."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from worldsim.kernels.library import NoDeepcopy, Pointer, address, check_struct, kernel, shaped

_PANEL = 64
"""Outputs that lie together, as dense.h has it."""


class DenseData(ctypes.Structure):
    """A linear layer as dense.h takes it."""

    _fields_ = (
        ("weights", Pointer),
        ("bias", Pointer),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("half", ctypes.c_int32),
    )


class PackedLinear(NoDeepcopy):
    """The weights of a linear layer, laid out for kernels.

    Args:
        weight: [outputs, inputs].
        bias: [outputs], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs, self.inputs = weight.shape
        self._weights = _narrowed(pack_panels(weight.detach().float()))
        self._bias = None if bias is None else bias.detach().float().contiguous()
        check_struct(DenseData, "DenseData")
        where = None if self._bias is None else address(self._bias)
        kept = self._weights.dtype
        self.data = DenseData(
            address(self._weights, kept), where, self.inputs, self.outputs, kept == torch.float16
        )


class Dense(PackedLinear):
    """A linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self._run = kernel("dense", [Pointer, Pointer, ctypes.c_int, Pointer])

    def __call__(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs], float32."""
        rows = shaped(x, *x.shape[:-1], self.inputs).float().contiguous()
        out = torch.empty(*x.shape[:-1], self.outputs)
        self._run(ctypes.addressof(self.data), address(rows), rows.numel() // self.inputs, address(out))
        return out


def _narrowed(weight: Tensor) -> Tensor:
    """Weights as float16 if that rounds none, as in a stored world: half the bytes to read, the same sums."""
    half = weight.half()
    return half if torch.equal(half.float(), weight) else weight


def pack_panels(weight: Tensor) -> Tensor:
    """Weights [..., outputs, inputs] as [..., panels, inputs, 64], with zeros where there is no output."""
    *lead, outputs, inputs = weight.shape
    panels = -(-outputs // _PANEL)
    padded = weight.new_zeros(*lead, panels * _PANEL, inputs)
    padded[..., :outputs, :] = weight
    return padded.unflatten(-2, (panels, _PANEL)).transpose(-1, -2).contiguous()
