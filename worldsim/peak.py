"""The machine's own limits, measured in the same run as what is compared with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch


def matmul_peak(device: torch.device, size: int = 2048, seconds: float = 0.5) -> float:
    """FLOP/s of a square matmul in bfloat16 or float32, the best of the repeats that fit in ``seconds`` each.

    Not every processor that knows bfloat16 is faster in it.
    """
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    pairs = [(a, b), (a.bfloat16(), b.bfloat16())]
    return 2 * size**3 / min(_best(partial(torch.matmul, *pair), device, seconds) for pair in pairs)


def memory_bandwidth(device: torch.device, megabytes: int = 256, seconds: float = 0.5) -> float:
    """Bytes/s read and written by a copy too large for any cache, the best that fits in ``seconds``."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device, seconds)


def _best(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The least time that ``work`` took, in seconds; not the first, when memory is new."""
    work()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
