"""Sizes that an int in C cannot hold: it would wrap, to an index behind the tensor or a loop of no turns."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.kernels.compare import built
from worldsim.kernels import library
from worldsim.kernels.image_ops import to_uint8


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


@built
def test_threads_may_ask_for_a_kernel_that_another_one_runs() -> None:
    frames = torch.zeros(1, 3, 2, 2)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(lambda: [to_uint8(frames) for _ in range(300)]) for _ in range(4)]
            assert all(len(one.result(60)) == 300 for one in made)
    finally:
        sys.setswitchinterval(interval)
