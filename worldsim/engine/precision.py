"""The number type that networks run in on the machine at hand."""

from __future__ import annotations

import torch

from worldsim.networks import Networks
from worldsim.utils.cpu_info import cpu_info

_MATRICES = {"amx_bf16", "bf16"}
"""Linux's names for fast bfloat16 products (Intel's matrix units, ARM's)."""
_VECTORS = "avx512_bf16"
"""Those of vector units: on AMD twice as fast as float32; on Intel half as fast (0.16 and 0.28 TFLOP/s)."""


def best_dtype(networks: Networks) -> torch.dtype:
    """float32 where kernels make the whole frame, else what torch multiplies faster on this processor.

    The choice follows the layers' sizes and the processor's flags, not a timing: every process of a machine
    must make the same frames, however busy it is. float16 is never chosen: it is slow on CPUs.
    """
    if networks.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if networks.supports_kernels:
        return torch.float32
    return torch.bfloat16 if _multiplies_bfloat16() else torch.float32


def _multiplies_bfloat16() -> bool:
    """True if torch is faster in bfloat16 than in float32 on this processor."""
    here = cpu_info()
    return bool(here.flags & _MATRICES) or (_VECTORS in here.flags and here.vendor != "GenuineIntel")
