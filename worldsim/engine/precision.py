"""In which number type the networks run best on the machine at hand."""

from __future__ import annotations

import torch

from worldsim.networks import Networks
from worldsim.processor import processor

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


def rounds_alike(networks: Networks, dtype: torch.dtype) -> bool:
    """Whether prepared networks give a world's frames to the bit, whatever else is in the batch."""
    return networks.batch_invariant or (dtype == torch.bfloat16 and _multiplies_bfloat16())
