"""Casting of weights for inference."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from worldsim.batch_invariant import BatchInvariantLinear


def cast(module: nn.Module, dtype: torch.dtype, keep: Collection[nn.Module] = ()) -> None:
    """Cast a module's floating-point weights and buffers in place.

    What is in ``keep``, and every ``BatchInvariantLinear`` layer, stays as it is: they work on float32.
    """
    if isinstance(module, BatchInvariantLinear) or any(module is kept for kept in keep):
        return
    for part in module.children():
        cast(part, dtype, keep)
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.to(dtype)


_MAX_LOOP_PRODUCT = 16**3
"""Multiply-adds up to which torch gives a bfloat16 product to a loop of its own and beyond which to oneDNN,
which adds in another order: 1 of 20,000 outputs of 12 x 64 x 4 changed when the batch doubled."""


def make_small_products_invariant(parent: nn.Module, rows: int) -> None:
    """Replace layers of ``parent`` that torch's own loop would run for one world by ``BatchInvariantLinear``.

    A batch would be multiplied by oneDNN. ``rows`` is the least number of rows of a world.
    """
    for name, layer in parent.named_children():
        if type(layer) is nn.Linear and rows * layer.weight.numel() <= _MAX_LOOP_PRODUCT:
            setattr(parent, name, BatchInvariantLinear.of(layer))
