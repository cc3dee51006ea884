"""Memory that is used again: what a session's history holds comes and goes by the megabyte with every frame.

Given back to the system, it would have to be asked for again, page by page: 2.4 of 13 ms a frame on a virtual
machine. Only what a CPU holds is kept.
"""

from __future__ import annotations

import weakref
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

_LEAST = 1 << 14
"""Bytes below which the allocator of the system is quick enough."""

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
        memory = np.empty(count, np.uint8)
    lent = memory[:]
    weakref.finalize(lent, _free[count].append, memory).atexit = False
    return lent
