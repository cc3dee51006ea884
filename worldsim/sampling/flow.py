"""Flow matching with x-prediction and shortcut steps (Dreamer 4's shortcut forcing).

A latent at level t is (1 - t) * noise + t * clean; the network predicts the clean latent; the velocity is
(clean - latent) / (1 - t). One network takes steps of any size 1, 1/2, 1/4: the step size is an input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldsim.errors import ConfigError

STEPS = (1, 2, 4)


def check_steps(steps: int) -> int:
    """Raises ``ConfigError`` unless ``steps`` is 1, 2 or 4."""
    if steps not in STEPS:
        raise ConfigError(f"the denoising steps K must be one of {STEPS}", steps, "choose steps=2")
    return steps


def mix(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The latent at ``level`` [...] between ``noise`` and ``clean`` [..., N, C]."""
    level = level[..., None, None]
    return (1 - level) * noise + level * clean


def advance(latent: Tensor, clean: Tensor, level: Tensor, step: Tensor) -> Tensor:
    """One Euler step of size ``step`` [...] along the velocity that the predicted ``clean`` implies."""
    share = (step / (1 - level).clamp(min=1e-3)).clamp(max=1)[..., None, None]
    return latent + (clean - latent) * share


def denoise(predict: Callable[[Tensor, float, float], Tensor], noise: Tensor, steps: int) -> Tensor:
    """From ``noise`` to a clean latent in ``steps`` passes of ``predict(latent, level, step) -> clean``."""
    latent, size = noise, 1 / check_steps(steps)
    for i in range(steps):
        clean = predict(latent, i * size, size)
        level = torch.full(latent.shape[:-2], i * size, device=latent.device)
        latent = advance(latent, clean, level, torch.full_like(level, size))
    return latent
