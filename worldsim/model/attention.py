"""Attention behind one function. ``reference`` is explicit; ``attend`` picks what is fast on the device.

Shapes: ... batch axes, Q queries, K keys, d channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v; q [..., Q, d], k, v [..., K, d], ``mask`` [..., Q, K] True = may look."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores.float(), -1).to(v.dtype) @ v


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """As ``reference``. CUDA has a fused kernel; on a CPU the explicit form is faster at short lengths."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if torch.is_autocast_enabled(q.device.type):  # at these sizes float32 is the faster type, too
        with torch.autocast(q.device.type, enabled=False):
            return reference(q, k, v, mask)
    return reference(q, k, v, mask)
