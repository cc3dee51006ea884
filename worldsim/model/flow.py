"""Flow matching with x-prediction: a sample at level t is (1 - t) * noise + t * clean.

The network predicts the clean sample; the velocity is (clean - sample) / (1 - t).
"""

from __future__ import annotations

from torch import Tensor


def mix(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The sample at ``level`` [...] between ``noise`` and ``clean`` [..., N, C]."""
    level = level[..., None, None]
    return (1 - level) * noise + level * clean


def advance(latent: Tensor, clean: Tensor, level: Tensor, step: Tensor) -> Tensor:
    """One Euler step of size ``step`` [...] along the velocity that the predicted ``clean`` implies."""
    share = (step / (1 - level).clamp(min=1e-3)).clamp(max=1)[..., None, None]
    return latent + (clean - latent) * share
