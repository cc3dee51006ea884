"""Memory that is used again: what a session's history holds comes and goes by the megabyte with every frame.

Given back to the system, it would have to be asked for again, page by page: 2.4 of 13 ms a frame on a virtual
machine. It lies apart from the heap, too: pieces that stay, among what every step makes and drops, leave gaps
that nothing fits into. Only what a CPU holds is kept.
"""

from __future__ import annotations

import weakref
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

_LEAST = 1 << 14
"""Bytes below which the allocator of the system is quick enough."""

_SLAB = 1 << 26
"""Bytes asked of the system at once: so many that no allocator takes them from its heap, and that large pages
do; of what is not written to yet, there is only the address."""
_LINE = 64
"""Bytes of a cache line, which no two parts share."""

_free: defaultdict[int, list[np.ndarray]] = defaultdict(list)
"""By bytes; lists are appended to and popped from by any thread."""


def copied(part: Tensor) -> Tensor:
    """A copy of ``part`` whose memory is used again when nobody holds it, or a view of it, any more."""
    if part.device.type != "cpu" or part.nbytes < _LEAST:
        return part.clone(memory_format=torch.contiguous_format)
    return torch.frombuffer(_lent(part.nbytes), dtype=part.dtype).view(part.shape).copy_(part)


def _lent(count: int) -> np.ndarray:
    """uint8 [count], of any content; free again when the last view of its tensor is gone, and it with it."""
    try:
        memory = _free[count].pop()
    except IndexError:
        memory = _cut(count)
    lent = memory[:]
    weakref.finalize(lent, _free[count].append, memory).atexit = False
    return lent


def _cut(count: int) -> np.ndarray:
    """uint8 [count] of a new slab; the rest of it is free."""
    size = -(-count // _LINE) * _LINE
    slab = np.empty(max(1, _SLAB // size) * size, np.uint8)
    first, *others = (slab[begin : begin + count] for begin in range(0, len(slab), size))
    _free[count].extend(reversed(others))
    return first
