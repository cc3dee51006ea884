"""Casting of weights for inference."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from worldsim.alone import Alone


def cast(module: nn.Module, dtype: torch.dtype, keep: Collection[nn.Module] = ()) -> None:
    """Cast a module's floating-point weights and buffers in place.

    What is in ``keep``, and every ``Alone`` layer, stays as it is: they work on float32.
    """
    if isinstance(module, Alone) or any(module is kept for kept in keep):
        return
    for part in module.children():
        cast(part, dtype, keep)
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.to(dtype)
