"""Layers that multiply by a kernel at inference: a row's outputs do not depend on the rows beside it.

Each is a layer of torch with the same weights. Where kernels are not built or disabled, where gradients are
on or the input is not float32, it does as torch does.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.kernels.dense import Dense
from worldsim.kernels.library import accepts, kernels_enabled, variant


class DenseLinear(BatchInvariantLinear):
    """A linear layer; without kernels every world's rows are multiplied alone."""

    _dense: Dense | None = None

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """The same layer, with the same weights; they must not change."""
        made = super().of(layer)
        if variant() is not None:
            made._dense = Dense(made.weight, made.bias)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """[B, ..., inputs] to [B, ..., outputs]; B worlds."""
        if self._dense is None or not (kernels_enabled() and accepts(x)):
            return super().forward(x)
        return self._dense(x)


class DenseConv2d(nn.Conv2d):
    """A convolution of one group, as a product of the pixels around each place."""

    _dense: Dense | None = None

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Self:
        """The same layer, with the same weights; they must not change."""
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        made = cls(*sizes, bias=layer.bias is not None, device="meta")  # type: ignore[arg-type]
        made.weight, made.bias = layer.weight, layer.bias
        if variant() is not None:
            around = made.weight.permute(0, 2, 3, 1).flatten(1)
            made._dense = Dense(around, made.bias)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D, h, w]."""
        if self._dense is None or not (kernels_enabled() and accepts(x)):
            return super().forward(x)
        assert not isinstance(self.padding, str)
        (down, across), (height, width) = self.padding, self.kernel_size
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, across, across, down, down))
        rows, columns = ((size - kernel) // step + 1 for size, kernel, step in self._sizes(padded))
        step_down, step_across = self.stride
        around = [
            padded[:, i : i + rows * step_down : step_down, j : j + columns * step_across : step_across]
            for i in range(height)
            for j in range(width)
        ]
        made = self._dense(around[0] if len(around) == 1 else torch.cat(around, -1))
        return made.permute(0, 3, 1, 2).contiguous()

    def _sizes(self, padded: Tensor) -> list[tuple[int, int, int]]:
        """Size of ``padded`` [B, H, W, C], of the kernel and of the stride, down and across."""
        return list(zip(padded.shape[1:3], self.kernel_size, self.stride, strict=True))


def use_dense_layers(module: nn.Module) -> None:
    """Replace the linear layers and convolutions below ``module`` by those of this file."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, DenseLinear.of(child))
        elif type(child) is nn.Conv2d and child.groups == 1 and child.dilation == (1, 1):
            setattr(module, name, DenseConv2d.of(child))
        else:
            use_dense_layers(child)
