"""In which number type the networks run best on the machine at hand."""

from __future__ import annotations

import time
from functools import cache

import torch

from worldsim.networks import Networks
from worldsim.tokenizer.history import HistoryTokenizer


@cache  # measured once: two loads of a world must dream the same frames, however busy the machine is
def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its matmuls are faster than float32's (measured, some milliseconds), float32 elsewhere.

    float16 is never chosen: it is slow on CPUs.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    slow, fast = (_matmul_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    return torch.bfloat16 if fast < slow else torch.float32


def prepare(networks: Networks, dtype: torch.dtype) -> None:
    """Cast once what would otherwise be cast every step.

    A place's planes stay float32: they are looked up, not multiplied. So do the generator's own weights and
    its last norm, which work on float32.
    """
    for name, module in networks.generator.named_children():
        if name != "norm":
            module.to(dtype)
    tokenizer = networks.tokenizer
    for name, module in tokenizer.named_children():
        if name != "place":
            module.to(dtype)
    if isinstance(tokenizer, HistoryTokenizer) and tokenizer.place is not None:
        tokenizer.place.colour.to(dtype)


def _matmul_seconds(device: torch.device, dtype: torch.dtype) -> float:
    a, b = torch.ones(256, 512, device=device, dtype=dtype), torch.ones(512, 512, device=device, dtype=dtype)
    a @ b
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return best
