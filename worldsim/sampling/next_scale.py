"""Next-scale sampling: the bits of a frame scale after scale, and how a generator learns them ([VideoAR]).

A pass draws the bits of one scale: tokens side by side, the bits of a token one after the other. Training
flips bits of the past and of coarser scales, so that the generator learns to correct its own errors
(cross-frame error correction), and hides frames of the past (random frame mask).

Shapes: B batch, T frames, N tokens, n tokens of a scale, C bits of a token, K scales, W context.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.next_scale import NextScaleGenerator
from worldsim.model.protocol import Generator, LatentForm
from worldsim.model.scale_features import PreparedScales, ScaleLogits
from worldsim.registry import register
from worldsim.sampling.protocol import Chances, LatentClip, SamplerLoss

_NEWEST_HIDDEN = 0.1
"""Largest rate at which the frame just before is hidden."""
_MOST_FLIPS = 0.5
"""Largest share of bits that is flipped; more would be the opposite frame."""
_LN2 = math.log(2)


@register("sampler", "next-scale")
@dataclass(frozen=True, kw_only=True, slots=True)
class NextScaleSamplerConfig:
    """Drawing and training of bits, scale after scale."""

    flips: float = 0.1
    """Largest share of flipped bits in a clip's first frame; 0: none."""
    flip_ramp: float = 0.01
    """Rise of that share per frame ([VideoAR]: time-ramped corruption)."""
    flip_inheritance: bool = True
    """A frame's first scale has at least the share of flips of the frame before ([VideoAR])."""
    flipped_clips: float = 0.7
    """Share of clips with flips."""
    hidden_frames: float = 0.1
    """Rate at which each frame of the past is hidden from attention."""
    withheld_controls: float = 0.1
    """Share of frames without their condition, for guidance."""
    guidance: tuple[float, float] = (1.0, 1.0)
    """Strength of the condition on the logits at the first and the last scale; 1: as trained."""
    guidance_frames: int = 0
    """Frames over which the strength of a session grows from 1 to ``guidance``."""
    temperatures: tuple[float, ...] = ()
    """Factor of the noise of each scale; by default 1."""

    def __post_init__(self) -> None:
        rates = (self.flips, self.flipped_clips, self.hidden_frames, self.withheld_controls)
        if min(rates) < 0 or max(rates) > 1 or self.flip_ramp < 0 or self.guidance_frames < 0:
            rule = "rates of a next-scale sampler must be in [0, 1], ramps not negative"
            raise ConfigError(rule, (*rates, self.flip_ramp, self.guidance_frames))
        if min((*self.guidance, *self.temperatures)) < 0:
            rule = "guidance and temperatures must not be negative"
            raise ConfigError(rule, (self.guidance, self.temperatures))

    def build(self, latent: LatentForm, generator: Generator) -> NextScaleSampler:
        """The sampler; it needs a next-scale generator.

        Raises:
            ConfigError: another generator, or temperatures for another number of scales.
        """
        if not isinstance(generator, NextScaleGenerator):
            rule = "a next-scale sampler needs a next-scale generator"
            raise ConfigError(rule, type(generator).__name__, "choose the generator next-scale")
        if self.temperatures and len(self.temperatures) != len(latent.scales):
            rule = f"temperatures must be one for each of the {len(latent.scales)} scales"
            raise ConfigError(rule, self.temperatures)
        return NextScaleSampler(self, [rows * columns for rows, columns in latent.scales])


class NextScaleSampler:
    """Draws bits coarse to fine; with fewer passes than scales the finest ones stay as they were.

    Args:
        config: rates and strengths.
        areas: tokens of each scale.
    """

    def __init__(self, config: NextScaleSamplerConfig, areas: list[int]) -> None:
        self.config, self.areas = config, areas
        temperatures = np.array(config.temperatures or (1.0,) * len(areas), np.float32)
        self._temperature = torch.from_numpy(np.repeat(temperatures, areas))[:, None]

    @property
    def allowed_steps(self) -> tuple[int, ...]:
        """Numbers of scales that it can draw."""
        return tuple(range(1, len(self.areas) + 1))

    @property
    def default_steps(self) -> int:
        """All scales."""
        return len(self.areas)

    @property
    def whole_steps(self) -> tuple[int, ...]:
        """All scales: with fewer the finest ones stay as they were."""
        return (len(self.areas),)

    def draw(self, generator: Generator, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        """Bits [B, N, C] from standard normals ``noise`` [B, N, C], or scaled ones.

        The ``denoising_steps`` coarsest scales are drawn; the finer ones keep the bits of the frame before.
        """
        assert isinstance(generator, NextScaleGenerator), "checked when the sampler was built"
        uniform = torch.special.ndtr(noise * self._temperature.to(noise))
        free = generator.unconditioned(prepared) if self._is_guided else None
        bits = torch.where(prepared.previous > 0, 1.0, -1.0)
        for index, rows in enumerate(generator.maps.rows(k) for k in range(denoising_steps)):
            logits = generator.scale_logits(prepared, bits, index)
            if free is not None:
                strength = self._strength(prepared, index)
                logits = _guided(logits, generator.scale_logits(free, bits, index), strength)
            bits[:, rows], by = bits_of(logits, _drawn_by(uniform[:, rows]))
            prepared.drawn.append(by)
        return generator.finish(prepared, bits)

    def chances(self, generator: Generator, prepared: Any, latent: Tensor) -> Chances:
        """Chances of the scales of ``latent`` [B, N, C] that were drawn; if none was, of all.

        Surprise is the sum over bits, doubt the mean over scales of the mean entropy of a scale's bits: a
        coarse bit changes more of the frame, and there are few. Bits were drawn by logits with guidance and
        without temperature. Every bit of a first frame, which follows nothing, is an even chance.
        """
        assert isinstance(generator, NextScaleGenerator), "checked when the sampler was built"
        drawn: list[Tensor] = prepared.drawn
        if not drawn:
            generator.finish_scales(prepared, latent)
            logits = generator.logits(torch.cat(prepared.hidden, 1), prepared.previous)
            drawn = list(bits_of(logits, lambda number, _: latent[..., number])[1].split(self.areas, 1))
        follows = (prepared.units > 0).double()[:, None, None]
        surprise, doubt = [], []
        for by, bits in zip(drawn, latent.split(self.areas, 1), strict=False):
            # In float64, rounded at the end: the last digits of sums may differ with the batch.
            known = by.double() * follows
            sure = known.abs()
            surprise.append(F.softplus(-known * bits).flatten(1).sum(1))
            doubt.append((F.softplus(-sure) + sure * torch.sigmoid(-sure)).flatten(1).mean(1))
        total, mean = torch.stack(surprise).sum(0), torch.stack(doubt).mean(0)
        return Chances((total / _LN2).float(), (mean / _LN2).float().clamp(0, 1))

    def loss(self, generator: Generator, clip: LatentClip, rng: np.random.Generator) -> SamplerLoss:
        """Bitwise cross-entropy of every frame but the first, which follows nothing.

        Chance comes from torch's default generator, seeded by ``rng``.
        """
        assert isinstance(generator, NextScaleGenerator), "checked when the sampler was built"
        torch.manual_seed(int(rng.integers(2**62)))
        (batch, frames), device = clip.latents.shape[:2], clip.latents.device
        seen, target = self._with_errors(generator, clip)
        control = torch.rand(batch, frames, device=device) >= self.config.withheld_controls
        shown = self._shown_frames(batch, frames, generator.context - 1, device)
        features = generator.clip(seen, clip.condition, clip.prior_tokens, control, shown)
        logits = generator.logits(features.hidden[:, 1:], seen[:, :-1]).given(target[:, 1:])
        wanted = (target[:, 1:] > 0).to(logits.dtype)
        error = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)
        weight = torch.ones_like(error[..., 0]) if clip.weight is None else clip.weight[:, 1:]
        total = weight.sum().clamp(min=1)
        token = self._token_weight(error)
        loss = ((error * token).sum(-1) * weight).sum() / (total * logits.shape[-1])
        bits = (error.detach().sum(-1) * weight).sum() / total / _LN2
        return SamplerLoss(loss, generator.agent(features), {"bits_per_frame": bits})

    @property
    def _is_guided(self) -> bool:
        return self.config.guidance != (1.0, 1.0)

    def _strength(self, prepared: PreparedScales, index: int) -> Tensor:
        """Guidance of scale ``index`` [B, 1, 1]: linear over scales, and over a session's first frames."""
        first, last = self.config.guidance
        strength = first + (last - first) * index / max(1, len(self.areas) - 1)
        grown = prepared.units.float() / max(1, self.config.guidance_frames)
        grown = grown.clamp(max=1.0) if self.config.guidance_frames else torch.ones_like(grown)
        return (1 + (strength - 1) * grown)[:, None, None]

    def _with_errors(self, generator: NextScaleGenerator, clip: LatentClip) -> tuple[Tensor, Tensor]:
        """Bits as the generator sees them, with flips, and the bits that it should answer [B, T, N, C].

        Flips are drawn by their share; in ``clip.own_past`` of the clips they are the generator's own errors.
        """
        bits = clip.latents
        if clip.is_past_clean or (self.config.flips == 0 and clip.own_past == 0):
            return bits, bits
        share = self._flip_shares(len(bits), bits.shape[1], bits.device)
        share = share.repeat_interleave(torch.tensor(self.areas, device=bits.device), 2)
        flips = torch.rand_like(bits) < share[..., None]
        if clip.own_past > 0:
            rows = (torch.rand(len(bits), device=bits.device) < clip.own_past).nonzero()[:, 0]
            if len(rows):
                flips[rows] = self._own_errors(generator, clip, rows)
        if clip.requantise is not None:
            return clip.requantise(flips)
        return torch.where(flips, -bits, bits), bits

    @torch.no_grad()
    def _own_errors(self, generator: NextScaleGenerator, clip: LatentClip, rows: Tensor) -> Tensor:
        """Bits that the generator draws otherwise than they are, given a true past, bool [R, T, N, C].

        ``rows`` int64 [R] are the clips that are asked for.
        """
        bits = clip.latents[rows]
        features = generator.clip(bits, clip.condition[rows], clip.prior_tokens[rows])
        logits = generator.logits(features.hidden[:, 1:], bits[:, :-1])
        drawn, _ = bits_of(logits, _drawn_by(torch.rand_like(bits[:, 1:])))
        return F.pad(drawn != bits[:, 1:], (0, 0, 0, 0, 1, 0))

    def _flip_shares(self, batch: int, frames: int, device: torch.device) -> Tensor:
        """Share of flipped bits of each clip, frame and scale [B, T, K].

        Uniform between bounds that rise over time; a frame's first scale inherits the share of the last
        scale before it as its least.
        """
        config, drawn = self.config, torch.rand(batch, frames, len(self.areas), device=device)
        shares, inherited = [], torch.zeros(batch, 1, device=device)
        for t in range(frames):
            least, most = config.flip_ramp * t, config.flips + config.flip_ramp * t
            low = torch.full_like(drawn[:, t], least if config.flip_inheritance else 0.0)
            if config.flip_inheritance:
                low[:, :1] = inherited.clamp(max=most)
            share = low + (most - low).clamp(min=0) * drawn[:, t]
            inherited = share[:, -1:]
            shares.append(share)
        chosen = torch.rand(batch, 1, 1, device=device) < config.flipped_clips
        return torch.stack(shares, 1).clamp(max=_MOST_FLIPS) * chosen

    def _shown_frames(self, batch: int, frames: int, past: int, device: torch.device) -> Tensor:
        """Frames of the past that attention may see, oldest first, bool [B, T, W - 1]."""
        rate = torch.full((past,), self.config.hidden_frames, device=device)
        rate[-1] = min(self.config.hidden_frames, _NEWEST_HIDDEN)
        return torch.rand(batch, frames, past, device=device) >= rate

    def _token_weight(self, like: Tensor) -> Tensor:
        """Weight of each token [N]: one over the root of its scale's area (Infinity); their sum is 1."""
        areas = torch.tensor(self.areas, device=like.device)
        weight = areas.to(like.dtype).rsqrt().repeat_interleave(areas)
        return weight / weight.sum()


Decide = Callable[[int, Tensor], Tensor]
"""Number of a bit and its chance to be 1 in each token [..., n] -> the bits of that number, -1 or 1."""


def bits_of(logits: ScaleLogits, decide: Decide) -> tuple[Tensor, Tensor]:
    """Bits [..., n, C] of a scale, decided one number after the other, given those before it.

    Returns:
        The bits, and the logit of each given those before it, float32 [..., n, C].
    """
    known, bits = logits.base.clone(), torch.empty_like(logits.base)
    for number in range(known.shape[-1]):
        bit = decide(number, known[..., number].sigmoid())
        bits[..., number] = bit
        later = slice(number + 1, None)
        known[..., later].addcmul_(logits.coupling[..., later, number], bit[..., None])
    return bits, known


def _drawn_by(uniform: Tensor) -> Decide:
    """A bit is 1 where ``uniform`` [..., n, C], in (0, 1), lies below its chance."""
    return lambda number, chance: torch.where(uniform[..., number] < chance, 1.0, -1.0)


def _guided(logits: ScaleLogits, free: ScaleLogits, strength: Tensor) -> ScaleLogits:
    """Logits moved from those without the condition by ``strength`` [B, 1, 1] times the difference."""
    base = torch.lerp(free.base, logits.base, strength)
    return ScaleLogits(base, torch.lerp(free.coupling, logits.coupling, strength[..., None]))
