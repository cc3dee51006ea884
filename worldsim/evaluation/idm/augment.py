"""Augmentation: real frames are blurred, delayed, tinted and made noisy, as frames of rollouts may be.

The model is trained on no rollout, but it must not depend on fine texture alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["augment"]


def augment(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Augment clips [B, T, 3, H, W] in [-1, 1], each differently; half of them get only tint and noise."""
    batch = len(frames)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.from_numpy(rng.uniform(low, high, (batch, *shape)).astype(np.float32)).clamp(0, None)
        return drawn.reshape(batch, 1, *(shape or (1,)), 1, 1)

    tint = 0.95 + 0.1 * uniform(0, 1, 3)
    frames = frames * tint + (0.1 * uniform(0, 1, 3) - 0.05)
    half = batch // 2
    degraded, soft = frames[:half], _blur(frames[:half])
    degraded = degraded.lerp(soft, uniform(0, 1.3)[:half].clamp(max=1))
    degraded = degraded.lerp(_blur(soft), uniform(-1, 1)[:half])
    delayed = torch.cat([degraded[:, :1], degraded[:, :-1]], 1)
    degraded = degraded.lerp(delayed, uniform(-0.6, 0.4)[:half])
    noise = torch.randn(*frames.shape[:2], 1, *frames.shape[3:])
    return torch.cat([degraded, frames[half:]]) + 0.05 * uniform(0, 1) * noise


def _blur(frames: Tensor) -> Tensor:
    """Blur with weights 1 2 1 along rows and columns."""
    for dim in (-1, -2):
        size = frames.shape[dim]
        before = torch.cat([frames.narrow(dim, 0, 1), frames.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([frames.narrow(dim, 1, size - 1), frames.narrow(dim, size - 1, 1)], dim)
        frames = 0.5 * frames + 0.25 * (before + after)
    return frames
