"""A transformer as a denoiser of whole clips: the base, and the scorers of generated data.

One flow time for all frames that are to be predicted, as in video diffusion; frames that are given are clean.

Shapes: B clips, T frames, n tokens of a frame, C latent channels, Q condition of a frame.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.model.blocks import Direction
from worldsim.model.flow import euler_step, interpolate
from worldsim.model.transformer import Transformer
from worldsim.training.distillation.clips import FrameClip
from worldsim.training.world_model_objective import group_by_unit

SMALLEST_STEP = 0.125
"""Size of the denoising step that denoisers are asked for: the smallest of the shortcut loss."""
_TIMES = (0.02, 0.98)
"""Range of flow times; at the ends there is nothing to learn."""


class ClipDenoiser(nn.Module):
    """Predicts the clean frames of a clip, in the direction in which its transformer looks."""

    def __init__(self, transformer: Transformer, prior_channels: int) -> None:
        super().__init__()
        self.transformer, self.prior_channels = transformer, prior_channels

    def look(self, direction: Direction) -> ClipDenoiser:
        """See units in this direction from now on."""
        self.transformer.look(direction)
        return self

    def forward(
        self, noisy: Tensor, t: Tensor, condition: Tensor, control_mask: Tensor | None = None
    ) -> Tensor:
        """The predicted clean latents [B, T, n, C] of ``noisy`` ones at flow time ``t`` [B, T].

        ``t`` is the same in all frames of a unit. Where ``control_mask`` [B] is False the condition is
        withheld.
        """
        frames = self.transformer.layout.frames
        units = group_by_unit(noisy, frames)
        prior = units.new_zeros(*units.shape[:3], self.prior_channels)
        times, given = t[:, ::frames], group_by_unit(condition, frames)
        steps = torch.full_like(times, SMALLEST_STEP)
        mask = None if control_mask is None else control_mask[:, None].expand_as(times)
        made = self.transformer(units, times, steps, prior, given, control_mask=mask)
        return made.clean.unflatten(2, (frames, -1)).flatten(1, 2)


def draw_times(rng: np.random.Generator, given: Tensor, length: int) -> Tensor:
    """Flow times [B, T]: one a clip, and 1 in the first ``given`` [B] frames."""
    low, high = _TIMES
    t = torch.from_numpy(rng.uniform(low, high, len(given)).astype(np.float32)).to(given.device)
    is_given = torch.arange(length, device=given.device) < given[:, None]
    return torch.where(is_given, torch.ones_like(t)[:, None], t[:, None])


def noised(latents: Tensor, t: Tensor, rng: np.random.Generator) -> Tensor:
    """``latents`` [B, T, n, C] at flow times ``t`` [B, T]."""
    noise = torch.from_numpy(rng.standard_normal(tuple(latents.shape), np.float32)).to(latents)
    return interpolate(latents, noise, t)


def denoising_loss(
    denoiser: ClipDenoiser, clip: FrameClip, given: Tensor, rng: np.random.Generator, drop: float = 0.1
) -> Tensor:
    """Flow matching on whole clips whose first ``given`` [B] frames are clean (Dreamer 4's ramp of weights).

    Conditions are withheld from a share ``drop`` of the clips.
    """
    t = draw_times(rng, given, clip.latents.shape[1])
    noisy = noised(clip.latents, t, rng)
    mask = torch.from_numpy(rng.random(len(given)) >= drop).to(given.device)
    error = (denoiser(noisy, t, clip.condition, mask) - clip.latents).square().mean((-1, -2))
    weight = clip.weight * (t < 1) * (0.9 * t + 0.1)
    return (error * weight).sum() / weight.sum().clamp(min=1e-3)


@torch.no_grad()
def sample_clips(
    denoiser: ClipDenoiser, clip: FrameClip, given: int, rng: np.random.Generator, steps: int = 8
) -> Tensor:
    """Sample clips [B, T, n, C] under the conditions of ``clip``, in ``steps`` Euler steps.

    The first ``given`` frames are the clip's own.
    """
    is_given = torch.arange(clip.latents.shape[1], device=clip.latents.device) < given
    is_given = is_given.expand(len(clip.latents), -1)
    latents = noised(clip.latents, is_given.float(), rng)
    for step in range(steps):
        now = torch.full(latents.shape[:2], step / steps, device=latents.device)
        t = torch.where(is_given, torch.ones_like(now), now)
        clean = denoiser(latents, t, clip.condition)
        moved = euler_step(latents, clean, now, torch.full_like(now, 1 / steps))
        latents = torch.where(is_given[..., None, None], clip.latents, moved)
    return latents
