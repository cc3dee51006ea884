"""The machine's own limits, measured in the same run as what is compared with them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def matmul_peak(device: torch.device, size: int = 2048, seconds: float = 0.5) -> float:
    """FLOP/s of a square bfloat16 matmul, the best of the repeats that fit in ``seconds``."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return 2 * size**3 / _best(lambda: a @ b, device, seconds)


def memory_bandwidth(device: torch.device, megabytes: int = 256, seconds: float = 0.5) -> float:
    """Bytes/s read and written by a copy too large for any cache, the best that fits in ``seconds``."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device, seconds)


def _best(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The least time that ``work`` took, in seconds."""
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
