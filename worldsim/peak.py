"""The machine's own matmul peak, measured in the same run as what is compared with it."""

from __future__ import annotations

import time

import torch


def matmul_peak(device: torch.device, size: int = 2048, seconds: float = 0.5) -> float:
    """FLOP/s of a square bfloat16 matmul, the best of the repeats that fit in ``seconds``."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until or not best:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
