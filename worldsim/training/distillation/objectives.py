"""Objectives of the base, of causal fine-tuning (stage 1 of [Units]) and of reward and end.

Shapes: B clips, T frames, n tokens of a frame, C latent channels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worldsim.model.transformer import Transformer
from worldsim.networks import Networks, trained_units
from worldsim.sampling.protocol import LatentClip
from worldsim.tokenizer.protocol import MotionCondition
from worldsim.training.distillation.clips import FrameClip, UnitClips
from worldsim.training.distillation.denoiser import ClipDenoiser, denoising_loss, sample_clips
from worldsim.training.latent_dynamics_objective import outcome_loss
from worldsim.training.stage import Logs

CausalData = Literal["data", "base", "both"]
"""Clips of causal fine-tuning: recorded ones, samples of the base (as in [Units]), or each in turn."""
_POOL, _REFRESH = 16, 4
"""Batches of samples of the base that are kept, and draws after which one of them is sampled anew."""
_PAST_NOISE = 0.5
"""Largest deviation of the noise on the frame before that a generator is shown, in units of the latents'."""
_OWN_PAST = 0.5
"""Share of steps in which some of the past is the generator's own, once it has learnt for a while: else the
errors of a roll-out, which come back as its past, grow."""


class BaseObjective:
    """Flow matching of the base on whole clips; half of them go on from ``given`` recorded frames."""

    def __init__(self, base: ClipDenoiser, clips: UnitClips, given: int) -> None:
        self._base, self._clips, self._given = base, clips, given

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        clip = self._clips.draw(rng, ends=0.0)
        go_on = torch.from_numpy(rng.random(len(clip.latents)) < 0.5).to(clip.latents.device)
        loss = denoising_loss(self._base, clip, go_on.long() * self._given, rng)
        return loss, {"denoising": loss.detach()}


class BaseSamples:
    """A pool of clips that the base sampled under recorded controls; some are sampled anew as it is drawn."""

    def __init__(self, base: ClipDenoiser, clips: UnitClips, given: int) -> None:
        self._base, self._clips, self._given = base, clips, given
        self._pool: deque[FrameClip] = deque(maxlen=_POOL)
        self._draws = 0

    def draw(self, rng: np.random.Generator) -> FrameClip:
        """A batch of clips."""
        if len(self._pool) < 2 or self._draws % _REFRESH == 0:
            recorded = self._clips.draw(rng, ends=0.0)
            sampled = sample_clips(self._base, recorded, self._given, rng)
            self._pool.append(replace(recorded, latents=sampled, condition=recorded.condition.detach()))
        self._draws += 1
        return self._pool[int(rng.integers(len(self._pool)))]


class CausalObjective:
    """The sampler's loss on clips grouped by the unit, and the loss of reward and end.

    Where a generator is trained for several units, each step draws one of them.
    """

    def __init__(
        self, networks: Networks, clips: UnitClips, samples: BaseSamples | None, data: CausalData
    ) -> None:
        self._networks, self._clips, self._samples, self._data = networks, clips, samples, data
        self._views = [networks.for_unit(unit) for unit in trained_units(networks.config)]
        self._draws = 0

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        view = self._views[int(rng.integers(len(self._views)))]
        recorded = self._clips.draw(rng)
        clip, sampled = recorded, self._samples is not None and self._wants_samples()
        if sampled and self._samples is not None:
            clip = self._samples.draw(rng)
        units = unit_clip(view, clip, _PAST_NOISE)
        own = _OWN_PAST * min(1.0, max(0.0, 4 * progress - 1))
        if view.tokenizer.uses_previous_frame and rng.random() < own:
            units = with_own_past(view, units, rng)
        drawn = view.sampler.loss(view.generator, units, rng)
        logs = {**drawn.logs, "sampled": float(sampled)}
        if sampled:
            return drawn.loss, logs
        outcome, outcome_logs = unit_outcome(view, self._clips, recorded, drawn.agent)
        return drawn.loss + outcome, {**logs, **outcome_logs}

    def _wants_samples(self) -> bool:
        self._draws += 1
        return self._data == "base" or (self._data == "both" and self._draws % 2 == 0)


class UnitOutcomeObjective:
    """Reward and end from the agent feature of clean clips; the generator stays as it is."""

    def __init__(self, networks: Networks, clips: UnitClips) -> None:
        self._networks, self._clips = networks, clips

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        recorded, generator = self._clips.draw(rng), self._networks.generator
        assert isinstance(generator, Transformer), "as the recipe plans it"
        clip = unit_clip(self._networks, recorded)
        ones = torch.ones(clip.latents.shape[:2], device=clip.latents.device)
        with torch.no_grad():
            agent = generator(clip.latents, ones, ones, clip.prior_tokens, clip.condition).agent
        return unit_outcome(self._networks, self._clips, recorded, agent)


def unit_clip(networks: Networks, clip: FrameClip, past_noise: float = 0.0) -> LatentClip:
    """A clip as units of the networks.

    Where the tokenizer shows the frame before, every frame of a unit has the last one of the unit before as
    its prior, with noise of a deviation of up to ``past_noise``: imagined frames are not as clean as recorded
    ones. The first unit has the grey frame that a world begins with.
    """
    frames, channels = networks.unit.frames, networks.tokenizer.prior_channels
    made = clip.grouped(frames, channels, networks.unit_tokens)
    if not networks.tokenizer.uses_previous_frame:
        return made
    before = clip.latents[:, frames - 1 :: frames][:, :-1]  # [B, U - 1, n, C]
    deviation = past_noise * torch.rand(len(before), 1, 1, 1, device=before.device)
    first = _blank_prior(networks).expand(len(before), 1, -1, -1)
    prior = torch.cat([first, before + deviation * torch.randn_like(before)], 1).repeat(1, 1, frames, 1)
    return replace(made, prior_tokens=networks.unit_tokens(prior))


@torch.no_grad()
def with_own_past(networks: Networks, clip: LatentClip, rng: np.random.Generator) -> LatentClip:
    """The clip with the generator's own units in its past (scheduled sampling, Bengio et al. 2015).

    Half of the units, drawn at random, are predicted in one pass from noise, given the others and the true
    frame before. Later units are shown them instead of the recorded ones, both as context (``shown``) and,
    the last frame of each, as the frame before. The first unit keeps its prior.
    """
    generator, frames = networks.generator, networks.unit.frames
    assert isinstance(generator, Transformer), "as the recipe plans it"
    units = clip.latents.shape[:2]
    is_own = torch.from_numpy(rng.random(units) < 0.5).to(clip.latents.device)
    noise = torch.from_numpy(rng.standard_normal(tuple(clip.latents.shape), np.float32)).to(clip.latents)
    wide, whole = is_own[..., None, None], torch.ones(units, device=clip.latents.device)
    noisy = torch.where(wide, noise, clip.latents)
    made = generator(noisy, (~is_own).float(), whole, clip.prior_tokens, clip.condition).clean
    shown = torch.where(wide, made.to(clip.latents.dtype), clip.latents)
    last = networks.frame_latents(shown).unflatten(2, (frames, -1))[:, :-1, -1:]
    own = last.expand(-1, -1, frames, -1, -1).flatten(2, 3)
    before = networks.frame_latents(clip.prior_tokens)
    own = torch.where(wide[:, :-1], own.to(before.dtype), before[:, 1:])
    prior = networks.unit_tokens(torch.cat([before[:, :1], own], 1))
    return replace(clip, prior_tokens=prior, shown=shown)


def _blank_prior(networks: Networks) -> Tensor:
    """The prior's tokens [1, n, C] of the first frame of all."""
    still = MotionCondition(torch.zeros(1, networks.condition_size, device=networks.device), None, None)
    return networks.tokenizer.prior(networks.tokenizer.blank(1, networks.device), still).tokens


def unit_outcome(networks: Networks, clips: UnitClips, clip: FrameClip, agent: Tensor) -> tuple[Tensor, Logs]:
    """Loss of reward and end of each frame, from the agent [B, U, D] of its unit."""
    windows = clip.windows
    features = agent.repeat_interleave(networks.unit.frames, 1)[:, 1:]
    weight = windows.valid[:, 1:] * windows.importance[:, None]
    return outcome_loss(networks.heads, clips.sequences, windows.arrivals[:, 1:], features, weight)
