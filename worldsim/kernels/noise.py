"""Noise that follows from a seed and a number; ``sampling.noise`` says it in NumPy."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from worldsim.kernels.library import Pointer, address, kernel, workspace


def normal_rows(seeds: Tensor, indices: Tensor, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normals, float32 [B, *shape]; row i belongs to (seeds[i], indices[i]), both int64 [B].

    A number may differ from NumPy's in its last bit.
    """
    count, whole = math.prod(shape), torch.int64
    noise, spare = torch.empty(len(seeds), *shape), workspace(2 * (count + 8))
    run = kernel("noise", [*[Pointer] * 2, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, *[Pointer] * 2])
    where = address(seeds.contiguous(), whole), address(indices.contiguous(), whole)
    run(*where, len(seeds), draw, count, address(noise), address(spare))
    return noise
