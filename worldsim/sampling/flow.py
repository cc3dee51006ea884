"""Flow matching with x-prediction and shortcut steps (Dreamer 4's shortcut forcing).

A latent at flow time t is (1 - t) * noise + t * clean; the network predicts the clean latent; the velocity is
(clean - latent) / (1 - t). One network takes steps of any size 1, 1/2, 1/4: the step size is an input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

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

    favours_noise: bool = False
    """Noisy latents are drawn more often, and weigh as much as nearly clean ones: for short trainings, which
    otherwise learn to take away the last noise, and not yet what follows from a control."""

    def build(self, latent: LatentForm, generator: Generator) -> FlowSampler:
        """The sampler; it needs continuous latents and a ``FlowGenerator``."""
        if latent.kind != "continuous":
            rule = "a flow sampler needs a tokenizer of continuous latents"
            raise ConfigError(rule, latent.kind, "choose a sampler of bits")
        if not isinstance(generator, FlowGenerator):
            rule = "a flow sampler needs a generator that predicts clean latents at any noise level"
            raise ConfigError(rule, type(generator).__name__, "choose the generator's own sampler")
        if parts_of(generator) > 1 and not isinstance(generator, PartGenerator):
            rule = "a unit of several parts needs a generator that draws part after part"
            raise ConfigError(rule, type(generator).__name__, "choose the transformer")
        return FlowSampler(self)


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


@runtime_checkable
class PartGenerator(FlowGenerator, Protocol):
    """A flow generator that draws a unit of several parts part by part (``Unit.order``)."""

    @property
    def order(self) -> tuple[tuple[int, ...], ...]:
        """The parts, P, in the order in which they are drawn: numbers of tokens."""

    @property
    def part_tokens(self) -> list[Tensor]:
        """``order`` on the device of the weights, int64 [n] each."""

    def denoise_part(self, prepared: Any, noisy: Tensor, index: int, part: int) -> Tensor:
        """The clean latent [B, n, C] that pass ``index`` predicts of a part, given those that are settled."""

    def settle(self, prepared: Any, latent: Tensor, part: int) -> None:
        """Let later parts see a part's finished ``latent`` [B, n, C]."""

    def per_token(self, x: Tensor) -> Tensor:
        """Numbers of parts [B, T, P] as numbers of tokens [B, T, N]; of units [B, T] as they are."""

    def per_part(self, x: Tensor) -> Tensor:
        """Means over the tokens [B, T, N] of every part [B, T, P], or of the unit [B, T] if it has one."""


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

    allowed_steps = whole_steps = DENOISING_STEPS
    default_steps = 2

    def __init__(self, config: FlowConfig | None = None) -> None:
        self.config = config or FlowConfig()

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        if parts_of(generator) > 1:
            # Checked when the networks were built. A wrapper has the methods, but from Python 3.12 on
            # isinstance does not see attributes that __getattr__ finds.
            return _draw_parts(cast("PartGenerator", generator), prepared, noise, denoising_steps)
        predict = lambda noisy, index: generator.denoise(prepared, noisy, index)  # noqa: E731
        return generator.finish(prepared, denoise(predict, noise, denoising_steps))

    def loss(self, generator: Generator, clip: LatentClip, rng: np.random.Generator) -> SamplerLoss:
        assert isinstance(generator, FlowGenerator), "checked when the sampler was built"
        drawn = sample_flow_times(rng, clip.latents, clip.is_past_clean, parts_of(generator))
        if self.config.favours_noise:
            drawn = drawn.noisier()
        loss, agent = forcing_loss(generator, clip, drawn, rng, ramp=not self.config.favours_noise)
        return SamplerLoss(loss, agent, {"forcing": loss.item()})


def parts_of(generator: Generator) -> int:
    """Parts of a generator's unit, P: 1 where it draws all tokens at once."""
    return len(getattr(generator, "order", ((),)))


def _draw_parts(generator: PartGenerator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
    """A finished latent [B, N, C], part after part, each given those before it."""
    drawn: list[Tensor] = []
    for number, tokens in enumerate(generator.part_tokens):
        predict = partial(_denoise_part, generator, prepared, number)
        drawn.append(generator.finish(prepared, denoise(predict, noise[:, tokens], denoising_steps)))
        if number + 1 < len(generator.order):
            generator.settle(prepared, drawn[-1], number)
    return torch.cat(drawn, 1)[:, torch.cat(generator.part_tokens).argsort()]


@dataclass(frozen=True, slots=True)
class FlowTimes:
    """Flow times and masks of a clip's units; all [B, T], or [B, T, P] of units of several parts."""

    t: Tensor
    """Flow time of the generator's input, 0 noise to 1 clean."""
    dt: Tensor
    """Size of the denoising step, in (0, 1]."""
    is_context: Tensor
    """The frame is clean and nothing is asked of it."""
    control_mask: Tensor
    """False where the condition is masked [B, T]."""
    shortcut: bool
    """Steps are larger than the smallest, learnt from two of half the size."""

    def noisier(self) -> FlowTimes:
        """The same with squared flow times; those of shortcut steps lie on a grid, and stay."""
        return self if self.shortcut else replace(self, t=self.t.square())


def sample_flow_times(
    rng: np.random.Generator, like: Tensor, is_past_clean: bool = False, parts: int = 1
) -> FlowTimes:
    """Independent flow times for every unit of ``like`` [B, T, ...]; one time in four for a shortcut step.

    Where ``is_past_clean``, all units but the last are context. A unit of several ``parts`` has a time for
    each; those before a part that is drawn at random are clean, as they are when that part is sampled.
    """
    units = like.shape[:2]
    shape = units if parts == 1 else (*units, parts)

    def put(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(like)

    shortcut = bool(rng.random() < 0.25)
    dt = put(rng.choice([0.25, 0.5, 1.0] if shortcut else [0.125], shape))
    t = put(rng.random(shape))
    t = torch.floor(t / dt) * dt if shortcut else t
    is_context = put(rng.random(units)) < 0.4
    if is_past_clean:
        is_context = torch.arange(units[1], device=like.device).expand(units) < units[1] - 1
    if parts > 1:
        active = torch.from_numpy(rng.integers(parts, size=units)).to(like.device)
        is_earlier = torch.arange(parts, device=like.device) < active[..., None]
        is_context = is_context[..., None] | is_earlier
    t = torch.where(is_context, torch.ones_like(t), t)
    control_mask = torch.from_numpy(rng.random(units) >= 0.1).to(like.device)
    return FlowTimes(t, dt, is_context, control_mask, shortcut)


def forcing_loss(
    generator: FlowGenerator, clip: LatentClip, drawn: FlowTimes, rng: np.random.Generator, ramp: bool = True
) -> tuple[Tensor, Tensor]:
    """Diffusion forcing with shortcut steps. Returns the loss and the agent [B, T, D].

    Errors are of what the generator predicts: of clean latents, those of units that are nearly clean weigh
    more (Dreamer 4's ``ramp``); of velocities all weigh the same. Parts of a unit weigh the same, however
    many tokens they have.
    """
    clean = clip.latents
    noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), np.float32)).to(clean)
    noisy = interpolate(clean, noise, _per_token(generator, drawn.t))
    if clip.shown is not None:
        is_whole = drawn.is_context if drawn.is_context.ndim == 2 else drawn.is_context.all(-1)
        noisy = torch.where(is_whole[..., None, None], clip.shown, noisy)

    def predict(latent: Tensor, t: Tensor, dt: Tensor) -> FlowPrediction:
        return generator(latent, t, dt, clip.prior_tokens, clip.condition, control_mask=drawn.control_mask)

    target = clean
    if drawn.shortcut:
        with torch.no_grad():
            two = _two_half_steps(generator, lambda *step: predict(*step).clean, noisy, drawn)
        is_context = _per_token(generator, drawn.is_context)
        target = torch.where(is_context.reshape(*is_context.shape, *[1] * (4 - is_context.ndim)), clean, two)
    made = predict(noisy, drawn.t, drawn.dt)
    weight = ~drawn.is_context * torch.ones_like(drawn.t)
    error = (made.clean - target).square().mean(-1)
    error = generator.per_part(error) if drawn.t.ndim == 3 else error.mean(-1)  # type: ignore[attr-defined]
    if generator.prediction == "velocity":
        error = error / (1 - drawn.t).clamp(min=0.02).square()
    elif ramp:
        weight = weight * (0.9 * drawn.t + 0.1)
    if clip.weight is not None:
        weight = weight * (clip.weight[..., None] if weight.ndim == 3 else clip.weight)
    return (error * weight).sum() / weight.sum().clamp(min=1e-3), made.agent


def _per_token(generator: FlowGenerator, x: Tensor) -> Tensor:
    """Numbers of a unit's parts [B, T, P] for its tokens [B, T, N]; those of units [B, T] as they are."""
    return generator.per_token(x) if isinstance(generator, PartGenerator) else x


def _two_half_steps(
    generator: FlowGenerator,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    noisy: Tensor,
    drawn: FlowTimes,
) -> Tensor:
    """The clean latent [B, T, N, C] that one whole step must predict to arrive where two half steps do."""
    t, half = drawn.t, drawn.dt / 2
    at, size = _per_token(generator, t), _per_token(generator, half)
    middle = euler_step(noisy, predict(noisy, t, half), at, size)
    later = t + half
    if t.ndim == 3:  # parts that are drawn already stay as they are while the next one is drawn
        middle = torch.where(_per_token(generator, drawn.is_context)[..., None], noisy, middle)
        later = later.clamp(max=1)
    end = euler_step(middle, predict(middle, later, half), at + size, size)
    share = _per_token(generator, (1 - t) / drawn.dt)
    return noisy + (end - noisy) * share.reshape(*share.shape, *[1] * (noisy.ndim - share.ndim))


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


def _denoise_part(generator: Any, prepared: Any, part: int, noisy: Tensor, index: int) -> Tensor:
    clean: Tensor = generator.denoise_part(prepared, noisy, index, part)
    return clean
