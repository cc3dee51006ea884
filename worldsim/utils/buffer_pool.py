"""Buffers that are reused: the undo records of sessions are allocated and freed by the megabyte every frame.

Memory that is returned to the system is mapped again page by page, which took 2.4 of 13 ms a frame on a
virtual machine. The buffers lie outside the heap: long-lived pieces among short-lived ones would fragment it.
Only tensors on a CPU are pooled.
"""

from __future__ import annotations

import weakref
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

_MIN_BYTES = 1 << 14
"""Smaller tensors are left to the system's allocator."""

_SLAB_BYTES = 1 << 26
"""Bytes of a slab: large enough to be mapped outside the heap, in huge pages. Pages that were never written
take no memory."""
_CACHE_LINE = 64
"""Alignment of a buffer in bytes: no two share a cache line."""

_free: defaultdict[int, list[np.ndarray]] = defaultdict(list)
"""Free buffers by size; appending and popping are atomic."""


def clone(part: Tensor) -> Tensor:
    """Copy ``part`` into a pooled buffer, which is reused once the copy and all its views are gone."""
    if part.device.type != "cpu" or part.nbytes < _MIN_BYTES:
        return part.clone(memory_format=torch.contiguous_format)
    return torch.frombuffer(_acquire(part.nbytes), dtype=part.dtype).view(part.shape).copy_(part)


def _acquire(count: int) -> np.ndarray:
    """A buffer uint8 [count] of any content; it is freed with the last view of it."""
    try:
        memory = _free[count].pop()
    except IndexError:
        memory = _new_slab(count)
    view = memory[:]
    weakref.finalize(view, _free[count].append, memory).atexit = False
    return view


def _new_slab(count: int) -> np.ndarray:
    """The first buffer uint8 [count] of a new slab; the others become free."""
    size = -(-count // _CACHE_LINE) * _CACHE_LINE
    slab = np.empty(max(1, _SLAB_BYTES // size) * size, np.uint8)
    first, *others = (slab[begin : begin + count] for begin in range(0, len(slab), size))
    _free[count].extend(reversed(others))
    return first
