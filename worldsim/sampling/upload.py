"""From the host to the device without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """``array`` as a tensor on ``device``. On the CPU the memory is shared where it is writable.

    A GPU takes page-locked memory at its own time; torch keeps it until then.
    """
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
