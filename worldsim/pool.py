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
    return _bytes(part.nbytes).view(part.dtype).view(part.shape).copy_(part)


def _bytes(count: int) -> Tensor:
    """uint8 [count], of any content."""
    try:
        memory = _free[count].pop()
    except IndexError:
        memory = np.empty(count, np.uint8)
    lent = memory[:]  # what the tensor holds until its last view is gone
    weakref.finalize(lent, _free[count].append, memory).atexit = False
    return torch.from_numpy(lent)
