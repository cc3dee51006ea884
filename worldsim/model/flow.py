"""Flow matching with x-prediction: a sample at level t is (1 - t) * noise + t * clean.

The network predicts the clean sample; the velocity is (clean - sample) / (1 - t).
"""

from __future__ import annotations

from torch import Tensor


def interpolate(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The sample at ``t`` [...] between ``noise`` and ``clean`` [..., N, C]; ``t`` may be each token's."""
    t = _widened(t, clean)
    return (1 - t) * noise + t * clean


def euler_step(latent: Tensor, clean: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """One Euler step of size ``dt`` [...] along the velocity that the predicted ``clean`` implies."""
    share = _widened((dt / (1 - t).clamp(min=1e-3)).clamp(max=1), latent)
    return latent + (clean - latent) * share


def _widened(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with axes of one at its end, as many as ``like`` has more."""
    return x.reshape(*x.shape, *[1] * (like.ndim - x.ndim))
