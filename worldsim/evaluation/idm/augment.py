"""What rollouts look like that nobody imagined: real frames softened, lagging, tinted and noisy.

The IDM sees no rollout, but it must not go by fine grain alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["augment"]


def augment(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Clips [B, T, 3, H, W] in [-1, 1], each its own way; of half of them only the tint and the noise."""
    batch = len(frames)

    def chance(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.from_numpy(rng.uniform(low, high, (batch, *shape)).astype(np.float32)).clamp(0, None)
        return drawn.reshape(batch, 1, *(shape or (1,)), 1, 1)

    tint = 0.95 + 0.1 * chance(0, 1, 3)
    frames = frames * tint + (0.1 * chance(0, 1, 3) - 0.05)
    half = batch // 2
    worse, soft = frames[:half], _blur(frames[:half])
    worse = worse.lerp(soft, chance(0, 1.3)[:half].clamp(max=1))
    worse = worse.lerp(_blur(soft), chance(-1, 1)[:half])
    behind = torch.cat([worse[:, :1], worse[:, :-1]], 1)
    worse = worse.lerp(behind, chance(-0.6, 0.4)[:half])
    noise = torch.randn(*frames.shape[:2], 1, *frames.shape[3:])
    return torch.cat([worse, frames[half:]]) + 0.05 * chance(0, 1) * noise


def _blur(frames: Tensor) -> Tensor:
    """Each pixel the mean of itself and its neighbours, with weights 1 2 1 along rows and columns."""
    for dim in (-1, -2):
        size = frames.shape[dim]
        before = torch.cat([frames.narrow(dim, 0, 1), frames.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([frames.narrow(dim, 1, size - 1), frames.narrow(dim, size - 1, 1)], dim)
        frames = 0.5 * frames + 0.25 * (before + after)
    return frames
