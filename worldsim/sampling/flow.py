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


def levels(steps: int) -> list[float]:
    """The level at which each of ``steps`` passes begins."""
    return [i / check_steps(steps) for i in range(steps)]


def denoise(predict: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int) -> Tensor:
    """From ``noise`` to a clean latent in passes of ``predict(latent, i) -> clean`` at ``levels(steps)``."""
    latent = noise
    for i, level in enumerate(levels(steps)):
        share = min(1.0, 1 / steps / (1 - level))
        latent = torch.lerp(latent, predict(latent, i), share)
    return latent
