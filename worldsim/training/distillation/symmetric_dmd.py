"""Symmetric distribution matching distillation ([Units], section 3.3; DMD2, Self-Forcing).

The generator imagines clips on itself, as in play. The real scorer, a frozen base with full attention, and
the scorers of generated data predict them from the same noise; the generator follows the difference. The
scorers of generated data are networks of the generator's form that look forward and backward in time, and
learn from what it imagines. Given frames are recorded ones and stay clean: no scorer judges under a past that
drifted.

Shapes: B clips, T frames, n tokens of a frame, C latent channels, G given frames.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.networks import Networks, trained_units
from worldsim.training.distillation.clips import FrameClip, UnitClips
from worldsim.training.distillation.denoiser import ClipDenoiser, denoising_loss, draw_times, noised
from worldsim.training.distillation.motion_watch import MotionWatch
from worldsim.training.distillation.rollout import SelfRollout, roll_out
from worldsim.training.stage import Logs

ScorerName = Literal["full", "forward", "backward", "symmetric"]
DIRECTIONS: dict[ScorerName, tuple[Literal["full", "forward", "backward"], ...]] = {
    "full": ("full",),
    "forward": ("forward",),
    "backward": ("backward",),
    "symmetric": ("forward", "backward"),
}
"""Scorers of generated data, by the directions in which they look ([Units], table 4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DmdSettings:
    """Settings of the distillation."""

    given: int
    """Recorded frames that a roll-out goes on from, G: whole units of generator and scorers."""
    denoising_steps: tuple[int, ...] = (1, 2, 4)
    """K of a roll-out, drawn each time."""
    generator_every: int = 3
    """Steps of the scorers for one of the generator."""
    warm_up: float = 0.5
    """Share of the stage in which the scorers learn alone: before they know what is imagined, their distance
    from the base is their own error, and the generator would follow it."""
    watch_every: int = 4
    """Steps of the generator between two readings of its motion."""


class SymmetricDmdObjective:
    """The objective of generator and scorers together: each has a loss of its own, and they share no weight.

    Args:
        networks: of the generator.
        clips: recorded clips; their first frames are given, their controls are followed.
        base: the real scorer, frozen.
        scorers: of generated data, by direction.
        settings: numbers.
        watch: ends the stage where motion dies.
    """

    def __init__(
        self,
        networks: Networks,
        clips: UnitClips,
        base: ClipDenoiser,
        scorers: nn.ModuleDict,
        settings: DmdSettings,
        watch: MotionWatch,
    ) -> None:
        self._networks, self._clips, self._base, self._scorers = networks, clips, base, scorers
        self._settings, self._watch = settings, watch
        self._views = [networks.for_unit(unit) for unit in trained_units(networks.config)]
        self._steps = 0
        self._told: Logs = {}  # the newest readings of what does not happen at every step

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        settings, clock = self._settings, _Clock()
        turn = progress >= settings.warm_up and self._steps % settings.generator_every == 0
        watches = self._steps % (settings.generator_every * settings.watch_every) == 0
        self._steps += 1
        recorded = self._clips.draw(rng, ends=0.0)
        with clock("rollout_s"):
            rollout = self._roll_out(recorded, rng, turn, watches)
        given = recorded.latents[:, : settings.given]
        imagined = replace(
            recorded,
            latents=torch.cat([given, rollout.latents.detach()], 1),
            condition=recorded.condition.detach(),
        )
        loss = rollout.latents.new_zeros(())
        if turn:
            with clock("score_s"):
                loss = self._matching_loss(imagined, rollout.latents, rng)
            self._told["matching"] = loss.detach()
        if watches and rollout.frames is not None:
            self._watch.read(rollout.frames, self._real_frames(recorded))
        with clock("scorers_s"):
            scorers = self._scorer_loss(imagined, rng)
        self._told |= clock.seconds
        return loss + scorers, {
            "scorers": scorers.detach(),
            "motion": self._watch.ratio,
            **self._told,
            **self._memory(),
        }

    def _roll_out(self, clip: FrameClip, rng: np.random.Generator, turn: bool, watches: bool) -> SelfRollout:
        sequences, arrivals = self._clips.sequences, clip.windows.arrivals
        frames = sequences.pixels(sequences.frame[arrivals[:, : self._settings.given]])
        steps = int(rng.choice(self._settings.denoising_steps))
        view = self._views[int(rng.integers(len(self._views)))]
        controls = sequences.controls[arrivals]
        return roll_out(view, frames, controls, steps, rng, with_gradient=turn, with_frames=watches)

    def _matching_loss(self, clip: FrameClip, made: Tensor, rng: np.random.Generator) -> Tensor:
        """Half the squared distance of ``made`` [B, T - G, n, C] to where the scores point it.

        The gradient is (generated - real) / mean |made - real| of each clip, as in DMD2.
        """
        first = self._settings.given
        given = torch.full((len(made),), first, device=made.device)
        t = draw_times(rng, given, clip.latents.shape[1])
        with torch.no_grad():
            noisy = noised(clip.latents, t, rng)
            real = self._base(noisy, t, clip.condition)[:, first:]
            predicted = [scorer(noisy, t, clip.condition)[:, first:] for scorer in self._scorers.values()]
            generated = torch.stack(predicted).mean(0)
            target = matching_target(made.detach(), real, generated)
        weight = clip.weight[:, first:, None, None].expand_as(made)
        return 0.5 * ((made - target).square() * weight).sum() / weight.sum().clamp(min=1)

    def _scorer_loss(self, clip: FrameClip, rng: np.random.Generator) -> Tensor:
        """Flow matching of every scorer on the imagined frames, summed."""
        given = torch.full((len(clip.latents),), self._settings.given, device=clip.latents.device)
        losses = []
        for scorer in self._scorers.values():
            assert isinstance(scorer, ClipDenoiser)
            losses.append(denoising_loss(scorer, clip, given, rng))
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _real_frames(self, clip: FrameClip) -> Tensor:
        """The recorded frames [B, T - G, 3, H, W] as the tokenizer shows them."""
        sequences, tokenizer = self._clips.sequences, self._clips.latents.tokenizer
        frames = sequences.pixels(sequences.frame[clip.windows.arrivals[:, self._settings.given :]])
        raw = tokenizer.posterior(frames.flatten(0, 1))[0]
        return tokenizer.reconstruct(raw).clamp(-1, 1).unflatten(0, frames.shape[:2])

    def _memory(self) -> Logs:
        """Megabytes of weights and Adam's moments of each part, and of the process at its peak."""
        generator = sum(weight.nbytes for _, weight in self._networks.generator.named_parameters())
        scorers = sum(weight.nbytes for weight in self._scorers.parameters())
        base = sum(weight.nbytes for weight in self._base.parameters())
        return {
            "generator_mb": 3 * generator / 2**20,
            "scorers_mb": 3 * scorers / 2**20,
            "base_mb": base / 2**20,
            "peak_mb": peak_memory(self._networks.device) / 2**20,
        }


def matching_target(made: Tensor, real: Tensor, generated: Tensor) -> Tensor:
    """Latents [B, ...] moved from the generated prediction towards the real one, by clips of equal steps.

    ``real`` and ``generated`` are the scorers' predictions of ``made``; a clip that they agree on stays.
    """
    scale = (made - real).abs().flatten(1).mean(1).view(-1, *[1] * (made.ndim - 1))
    gradient = torch.nan_to_num((generated - real) / scale, nan=0.0, posinf=0.0, neginf=0.0)
    return made - gradient


def peak_memory(device: torch.device) -> float:
    """Bytes at the peak: of the device's memory, on a CPU of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self.seconds: Logs = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
