"""The machine's roofline: matmul peak and memory bandwidth, measured in the run that is compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

_DTYPES = (torch.float32, torch.bfloat16)
_PROBE = 256
"""Size of the products that choose the types."""
_FAR_SLOWER = 8
"""Ratio of times from which a type is not measured."""


def matmul_peak(device: torch.device, size: int = 2048, seconds: float = 0.05) -> float:
    """Peak FLOP/s of a square matmul, in bfloat16 or float32, whichever is faster; ``seconds`` for each.

    A type that is far slower at a small size is not measured: where a processor lacks bfloat16, a large
    product takes a minute.
    """
    times = [_best(_matmul(_PROBE, dtype, device), device, 0) for dtype in _DTYPES]
    fast = [dtype for dtype, took in zip(_DTYPES, times, strict=True) if took < _FAR_SLOWER * min(times)]
    return 2 * size**3 / min(_best(_matmul(size, dtype, device), device, seconds) for dtype in fast)


def memory_bandwidth(device: torch.device, megabytes: int = 256, seconds: float = 0.5) -> float:
    """Bytes/s read and written by a copy too large for any cache; the best in ``seconds``."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device, seconds)


def _matmul(size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return partial(torch.matmul, a, b)


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
