"""The machine's roofline: matmul peak and memory bandwidth, measured in the run that is compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch


def matmul_peak(device: torch.device, size: int = 2048, seconds: float = 0.05) -> float:
    """Peak FLOP/s of a square matmul, in bfloat16 or float32, whichever is faster; ``seconds`` for each."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    pairs = [(a, b), (a.bfloat16(), b.bfloat16())]
    return 2 * size**3 / min(_best(partial(torch.matmul, *pair), device, seconds) for pair in pairs)


def memory_bandwidth(device: torch.device, megabytes: int = 256, seconds: float = 0.5) -> float:
    """Bytes/s read and written by a copy too large for any cache; the best in ``seconds``."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device, seconds)


def _best(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Shortest time of ``work`` in seconds, after a warm-up run."""
    work()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
