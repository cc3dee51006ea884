"""Automatic mixed precision where it is faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from worldsim.utils.cpu_info import multiplies_bfloat16


def mixed_precision(device_type: str) -> AbstractContextManager[object]:
    """Return a context in which products are bfloat16, on devices that multiply it faster than float32.

    A processor without bfloat16 units converts every operand: training is twice as slow there.

    Args:
        device_type: "cpu", "cuda", ...; others stay in float32.
    """
    if device_type == "cuda" or (device_type == "cpu" and multiplies_bfloat16()):
        return torch.autocast(device_type, torch.bfloat16)
    return nullcontext()
