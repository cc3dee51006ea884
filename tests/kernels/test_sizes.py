"""Sizes that an int in C cannot hold: it would wrap, to an index behind the tensor or a loop of no turns."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.kernels.compare import built
from worldsim.kernels import library


def test_tensors_beyond_32_bits_are_refused() -> None:
    many = torch.empty(1).expand(2**31)
    with pytest.raises(OverflowError, match="fewer at once"):
        library.address(many)
    with pytest.raises(OverflowError, match="fewer at once"):
        library.workspace(2**31)
    with pytest.raises(ValueError, match="contiguous"):
        library.address(many, most=library.UNBOUNDED)


@built
def test_numbers_beyond_32_bits_are_refused() -> None:
    run = library.kernel("to_uint8", [library.Pointer, *[ctypes.c_int] * 3, library.Pointer])
    with pytest.raises(ctypes.ArgumentError, match="32 bits"):
        run(None, 2**32, 1, 1, None)
