"""The number type that networks run in on the machine at hand."""

from __future__ import annotations

import torch

from worldsim.networks import Networks
from worldsim.utils.cpu_info import multiplies_bfloat16

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""Number types by the names that command lines take."""


def best_dtype(networks: Networks) -> torch.dtype:
    """float32 where kernels make the whole frame, else what torch multiplies faster on this processor.

    The choice follows the layers' sizes and the processor's flags, not a timing: every process of a machine
    must make the same frames, however busy it is. float16 is never chosen: it is slow on CPUs.
    """
    if networks.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if networks.supports_kernels:
        return torch.float32
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32
