"""Flow matching with x-prediction and shortcut steps (Dreamer 4's shortcut forcing).

A latent at flow time t is (1 - t) * noise + t * clean; the network predicts the clean latent; the velocity is
(clean - latent) / (1 - t). One network takes steps of any size 1, 1/2, 1/4: the step size is an input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.flow import euler_step, interpolate
from worldsim.model.protocol import Generator, LatentForm
from worldsim.registry import register
from worldsim.sampling.protocol import LatentClip, SamplerLoss

DENOISING_STEPS = (1, 2, 4)


@register("sampler", "flow")
@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig:
    """Flow matching over continuous latents."""

    def build(self, latent: LatentForm, generator: Generator) -> FlowSampler:
        """The sampler; it needs continuous latents and a ``FlowGenerator``."""
        if latent.kind != "continuous":
            rule = "a flow sampler needs a tokenizer of continuous latents"
            raise ConfigError(rule, latent.kind, "choose a sampler of bits")
        if not isinstance(generator, FlowGenerator):
            rule = "a flow sampler needs a generator that predicts clean latents at any noise level"
            raise ConfigError(rule, type(generator).__name__, "choose the generator's own sampler")
        return FlowSampler()


@runtime_checkable
class FlowGenerator(Generator, Protocol):
    """A generator that flow can teach."""

    @property
    def prediction(self) -> str:
        """ "clean" or "velocity": the output of its last layer, by which errors are weighed."""

    def __call__(
        self,
        noisy: Tensor,
        t: Tensor,
        dt: Tensor,
        prior_tokens: Tensor,
        condition: Tensor,
        *,
        control_mask: Tensor | None = None,
    ) -> FlowPrediction:
        """One pass over clips: ``noisy`` [B, T, N, C], ``t`` and ``dt`` [B, T], the clip's
        ``prior_tokens`` and ``condition``; ``control_mask`` [B, T] is False where the condition is masked."""


class FlowPrediction(Protocol):
    """The result of one pass."""

    @property
    def clean(self) -> Tensor:
        """The predicted clean latent [B, T, N, C]."""

    @property
    def agent(self) -> Tensor:
        """The agent feature [B, T, D]."""


class FlowSampler:
    """Denoises in K passes, and learns by diffusion forcing with shortcut steps."""

    allowed_steps = DENOISING_STEPS
    default_steps = 2

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        predict = lambda noisy, index: generator.denoise(prepared, noisy, index)  # noqa: E731
        return generator.finish(prepared, denoise(predict, noise, denoising_steps))

    def loss(self, generator: Generator, clip: LatentClip, rng: np.random.Generator) -> SamplerLoss:
        assert isinstance(generator, FlowGenerator), "checked when the sampler was built"
        drawn = sample_flow_times(rng, clip.latents, clip.is_past_clean)
        loss, agent = forcing_loss(generator, clip, drawn, rng)
        return SamplerLoss(loss, agent, {"forcing": loss.item()})


@dataclass(frozen=True, slots=True)
class FlowTimes:
    """Flow times and masks of a clip's frames; all [B, T]."""

    t: Tensor
    """Flow time of the generator's input, 0 noise to 1 clean."""
    dt: Tensor
    """Size of the denoising step, in (0, 1]."""
    is_context: Tensor
    """The frame is clean and nothing is asked of it."""
    control_mask: Tensor
    """False where the condition is masked."""
    shortcut: bool
    """Steps are larger than the smallest, learnt from two of half the size."""


def sample_flow_times(rng: np.random.Generator, like: Tensor, is_past_clean: bool = False) -> FlowTimes:
    """Independent flow times for every frame of ``like`` [B, T, ...]; one time in four for a shortcut step.

    Where ``is_past_clean``, all frames but the last are context.
    """
    frames = like.shape[:2]

    def put(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(like)

    shortcut = bool(rng.random() < 0.25)
    dt = put(rng.choice([0.25, 0.5, 1.0] if shortcut else [0.125], frames))
    t = put(rng.random(frames))
    t = torch.floor(t / dt) * dt if shortcut else t
    is_context = put(rng.random(frames)) < 0.4
    if is_past_clean:
        is_context = torch.arange(frames[1], device=like.device).expand(frames) < frames[1] - 1
    t = torch.where(is_context, torch.ones_like(t), t)
    control_mask = torch.from_numpy(rng.random(frames) >= 0.1).to(like.device)
    return FlowTimes(t, dt, is_context, control_mask, shortcut)


def forcing_loss(
    generator: FlowGenerator, clip: LatentClip, drawn: FlowTimes, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Diffusion forcing with shortcut steps. Returns the loss and the agent [B, T, D].

    Errors are of what the generator predicts: of clean latents, those of frames that are nearly clean weigh
    more (Dreamer 4's ramp); of velocities all weigh the same.
    """
    clean = clip.latents
    noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), np.float32)).to(clean)
    noisy = interpolate(clean, noise, drawn.t)

    def predict(latent: Tensor, t: Tensor, dt: Tensor) -> FlowPrediction:
        return generator(latent, t, dt, clip.prior_tokens, clip.condition, control_mask=drawn.control_mask)

    target = clean
    if drawn.shortcut:
        with torch.no_grad():
            two = _two_half_steps(lambda *step: predict(*step).clean, noisy, drawn)
        target = torch.where(drawn.is_context[..., None, None], clean, two)
    made = predict(noisy, drawn.t, drawn.dt)
    weight = ~drawn.is_context * torch.ones_like(drawn.t)
    error = (made.clean - target).square().mean((-1, -2))
    if generator.prediction == "velocity":
        error = error / (1 - drawn.t).clamp(min=0.02).square()
    else:
        weight = weight * (0.9 * drawn.t + 0.1)
    return (error * weight).sum() / weight.sum().clamp(min=1e-3), made.agent


def _two_half_steps(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor], noisy: Tensor, drawn: FlowTimes
) -> Tensor:
    """The clean latent [B, T, N, C] that one whole step must predict to arrive where two half steps do."""
    t, half = drawn.t, drawn.dt / 2
    middle = euler_step(noisy, predict(noisy, t, half), t, half)
    end = euler_step(middle, predict(middle, t + half, half), t + half, half)
    share = ((1 - t) / drawn.dt)[..., None, None]
    return noisy + (end - noisy) * share


def flow_times(steps: int) -> list[float]:
    """Flow time at the start of each of ``steps`` passes."""
    return [i / steps for i in range(steps)]


def denoise(predict: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Denoise ``noise`` in passes of ``predict(latent, i) -> clean`` at ``flow_times(steps)``."""
    latent = noise
    for i, t in enumerate(flow_times(steps)):
        share = min(1.0, 1 / steps / (1 - t))
        latent = torch.lerp(latent, predict(latent, i), share)
    return latent
