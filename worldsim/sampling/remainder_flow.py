"""Sampling of what a recurrent generator's mean does not tell, by its joint flow head.

Shapes: B batch, T frames, N tokens, C latent channels, D features, A agent features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.protocol import Generator, LatentForm
from worldsim.model.recurrent import RecurrentGenerator
from worldsim.registry import register
from worldsim.sampling.flow import DENOISING_STEPS, denoise
from worldsim.sampling.protocol import LatentClip, SamplerLoss

_NOISED_SHARE = 0.6
"""Share of the windows whose past is noised."""


@register("sampler", "remainder-flow")
@dataclass(frozen=True, kw_only=True, slots=True)
class RemainderFlowConfig:
    """Shortcut flow over the remainder of a recurrent generator."""

    past_noise: float = 0.5
    """Largest deviation, in units of the latents', of the noise on the past of most windows."""

    def build(self, latent: LatentForm, generator: Generator) -> RemainderFlowSampler:
        """The sampler; it needs a recurrent generator."""
        if not isinstance(generator, RecurrentGenerator):
            rule = "a remainder-flow sampler needs a recurrent generator"
            raise ConfigError(rule, type(generator).__name__, "choose the sampler flow")
        return RemainderFlowSampler(self)


class RemainderFlowSampler:
    """Denoises the remainder in K passes; learns mean and remainder together."""

    allowed_steps = whole_steps = DENOISING_STEPS
    default_steps = 2

    def __init__(self, config: RemainderFlowConfig) -> None:
        self.config = config

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        sample = denoise(lambda x, index: generator.denoise(prepared, x, index), noise, denoising_steps)
        return generator.finish(prepared, sample)

    def loss(self, generator: Generator, clip: LatentClip, rng: np.random.Generator) -> SamplerLoss:
        """The first frame of the clip is given; its agent feature is zero.

        The past is disturbed, so that the generator learns what follows frames like its own: by noise, and by
        samples of the next frame in place of true ones (scheduled sampling, Bengio et al. 2015). On clean
        pasts alone, events that true frames announce and imagined ones do not are imagined too rarely.
        Noise comes from torch's default generator, seeded by ``rng``: on a GPU it is drawn there.
        """
        assert isinstance(generator, RecurrentGenerator), "checked when the sampler was built"
        torch.manual_seed(int(rng.integers(2**62)))
        past = clip.latents[:, :-1]
        if not clip.is_past_clean:
            if clip.own_past > 0:
                steps = int(rng.choice(self.allowed_steps))
                past = self._with_own(generator, past, clip.condition[:, 1:], clip.own_past, steps)
            past = self._noised(past)
        features, _ = generator.clip(past, clip.condition[:, 1:])
        change = clip.latents[:, 1:] - past
        weight = clip.weight
        weight = torch.ones_like(change[..., 0, 0]) if weight is None else weight[:, 1:]
        loss, logs = generator.loss(features.flatten(0, 1), change.flatten(0, 1), weight.flatten())
        agent = F.pad(generator.agent_clip(features), (0, 0, 1, 0))
        return SamplerLoss(loss, agent, dict(logs))

    @torch.no_grad()
    def _with_own(
        self, generator: RecurrentGenerator, past: Tensor, condition: Tensor, share: float, steps: int
    ) -> Tensor:
        """Replace frames of ``past`` [B, T, N, C] by samples that follow the true frames before them.

        In ``share`` of the windows; how many of a window's frames are replaced is drawn for each. The first
        frame stays.
        """
        batch, length, device = *past.shape[:2], past.device
        features, _ = generator.clip(past, condition)
        flow = generator.flow.condition(features.flatten(0, 1))

        def predict(noisy: Tensor, index: int) -> Tensor:
            t, dt = (torch.full((1,), value, device=device) for value in (index / steps, 1 / steps))
            return generator.flow(flow, noisy, t, dt)

        noise = torch.randn(batch * length, *past.shape[2:], device=device)
        remainder = denoise(predict, noise, steps).unflatten(0, (batch, length))
        own = past + generator.mean_change(features).float() + generator.remainder_std * remainder
        often = torch.rand(batch, 1, device=device) * (torch.rand(batch, 1, device=device) < share)
        is_own = torch.rand(batch, length - 1, device=device) < often
        return torch.cat([past[:, :1], torch.where(is_own[..., None, None], own[:, :-1], past[:, 1:])], 1)

    def _noised(self, past: Tensor) -> Tensor:
        """``past`` [B, T, N, C] with noise in most windows, of a deviation of its own in each."""
        batch, device = len(past), past.device
        scale = torch.rand(batch, device=device) * self.config.past_noise
        scale = scale * (torch.rand(batch, device=device) < _NOISED_SHARE)
        return past + scale.view(-1, 1, 1, 1) * torch.randn_like(past)
