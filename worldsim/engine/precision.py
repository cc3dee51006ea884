"""In which number type the networks run best on the machine at hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

from worldsim.alone import Alone
from worldsim.networks import Networks
from worldsim.tokenizer.history import HistoryTokenizer

_FAST = {"avx512_bf16", "amx_bf16", "bf16"}
"""What Linux calls processors' own bfloat16 products (x86, ARM)."""


@cache
def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it itself, float32 elsewhere.

    Told by what the processor says of itself, not by a measurement: every process of a machine must dream
    the same frames, however busy it is. float16 is never chosen: it is slow on CPUs.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return torch.float32
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return torch.bfloat16 if flags & _FAST else torch.float32


def prepare(networks: Networks, dtype: torch.dtype) -> None:
    """Cast once what multiplies many rows; it casts what it is given, so that no autocast is needed.

    A place's planes stay float32: they are looked up, not multiplied. So do the generator's own weights and
    its last norm, which work on float32, and what multiplies a few rows: ``Alone``, a place's columns.
    """
    tokenizer = networks.tokenizer
    kept: set[nn.Module] = {networks.generator.norm}
    cast: list[nn.Module] = []
    if isinstance(tokenizer, HistoryTokenizer) and tokenizer.place is not None:
        kept |= {tokenizer.place, tokenizer.place.column}
        cast += tokenizer.place.children()
    for network in (networks.generator, tokenizer, networks.heads):
        cast += network.children()
    for module in cast:
        if module not in kept:
            _cast(module, dtype)


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    if isinstance(module, Alone):
        return
    for part in module.children():
        _cast(part, dtype)
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.to(dtype)
