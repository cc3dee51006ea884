"""In which number type the networks run best on the machine at hand."""

from __future__ import annotations

import torch
from torch import nn

from worldsim.alone import Alone
from worldsim.networks import Networks
from worldsim.processor import processor
from worldsim.tokenizer.history import HistoryTokenizer

_MATRICES = {"amx_bf16", "bf16"}
"""What Linux calls fast bfloat16 products (Intel's matrix units, ARM's)."""
_VECTORS = "avx512_bf16"
"""Those of vector units: on AMD twice as fast as float32; on Intel half as fast (0.16 and 0.28 TFLOP/s), and
one frame in 400 of a tiny world came out otherwise in another batch."""


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it faster than float32, which it is elsewhere.

    Told by what the processor says of itself, not by a measurement: every process of a machine must dream
    the same frames, however busy it is. float16 is never chosen: it is slow on CPUs.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _multiplies_bfloat16() else torch.float32


def _multiplies_bfloat16() -> bool:
    """Whether the processor is faster in bfloat16 than in float32, and rounds alike in every batch."""
    here = processor()
    return bool(here.flags & _MATRICES) or (_VECTORS in here.flags and here.vendor != "GenuineIntel")


def prepare(networks: Networks, dtype: torch.dtype) -> None:
    """Cast once what multiplies many rows; it casts what it is given, so that no autocast is needed.

    A place's planes stay float32: they are looked up, not multiplied. So do the generator's own weights and
    its last norm, which work on float32, and what multiplies a few rows: ``Alone``, a place's columns. On a
    CPU kernels take over what they can, in float32, too.
    """
    tokenizer = networks.tokenizer
    if networks.device.type == "cpu":
        networks.quicken(dtype)
    kept: set[nn.Module] = {networks.generator.norm}
    cast: list[nn.Module] = []
    if isinstance(tokenizer, HistoryTokenizer) and tokenizer.place is not None:
        kept |= {tokenizer.place, tokenizer.place.column}
        if tokenizer.place.look is None:
            cast += tokenizer.place.children()
    for network in (networks.generator, tokenizer, networks.heads):
        cast += network.children()
    for module in cast:
        if module not in kept:
            _cast(module, dtype)


def rounds_alike(networks: Networks, dtype: torch.dtype) -> bool:
    """Whether prepared networks give a world's frames to the bit, whatever else is in the batch."""
    tokenizer = networks.tokenizer
    quick = isinstance(tokenizer, HistoryTokenizer) and tokenizer.is_quick and networks.generator.is_quick
    return quick or (dtype == torch.bfloat16 and _multiplies_bfloat16())


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    if isinstance(module, Alone):
        return
    for part in module.children():
        _cast(part, dtype)
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.to(dtype)
