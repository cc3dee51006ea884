"""Next-scale recipes: a bitwise tokenizer and a generator of its scales ([VideoAR])."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError
from worldsim.model.conditions import default_conditions
from worldsim.model.next_scale import NextScaleConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.registry import register
from worldsim.sampling.next_scale import NextScaleSamplerConfig
from worldsim.tokenizer.bits import BitsConfig
from worldsim.tokenizer.protocol import quantises_scales
from worldsim.training.adversarial import AdversarialLoss, AdversarialWeights, Discriminator
from worldsim.training.bits_objective import BitsLoss, BitsObjective
from worldsim.training.camera_paths import heads_of, known_poses, twist_scale
from worldsim.training.latent_dynamics_objective import WindowDraw
from worldsim.training.next_scale_objective import NextScaleObjective, next_scale
from worldsim.training.next_scale_outcome import NextScaleOutcomeObjective
from worldsim.training.sequences import Sequences
from worldsim.training.stage import ParamGroup, Stage
from worldsim.units import NextScaleUnitConfig

_OUTCOME_BATCH = 4096
"""Arrivals in a step of the outcome stage."""
_CRITIC_LR = 3e-4
"""Peak learning rate of the discriminator."""
_CELLS = 12
"""Rows of cells of a frame, about."""


@register("recipe", "next-scale")
@dataclass(frozen=True, kw_only=True, slots=True)
class NextScaleRecipe:
    """Sizes of the networks, and fractions of the wall clock per stage, for a CPU.

    The fractions are normalised over the stages that run.
    """

    bits: int = 24
    """Bits of a token."""
    frames: int = 1
    """Frames of a latent, the temporal factor: 1 answers every control at once; 4 is for clips."""
    pool: int = 2
    """Cells to a side of a token of the finest scale."""
    tokenizer_width: int = 64
    token_width: int = 128
    tokenizer_depth: int = 2
    steady: float = 0.0
    """Weight of bits that change where the picture does not."""
    adversarial: float = 0.0
    """Weight of a discriminator's judgement in the tokenizer's loss."""
    perceptual: float = 0.0
    """Weight of the distance of its features."""
    width: int = 128
    """Features of a token in the generator."""
    layers: int = 4
    heads: int = 4
    context: int = 4
    """Frames that a token sees."""
    temporal_rope: bool = True
    """Queries and keys turn with time, too."""
    flips: float = 0.1
    flip_ramp: float = 0.01
    flip_inheritance: bool = True
    hidden_frames: float = 0.1
    """Rate at which frames of the past are hidden."""
    guidance: float = 1.0
    """Strength of the condition at play; 1: as trained."""
    tokenizer_fraction: float = 0.4
    generator_fraction: float = 0.55
    outcome_fraction: float = 0.05
    """Reward and end alone: ends are few, and overfit if they are trained with all else."""
    tokenizer_batch: int = 48
    """Frames of a step of the tokenizer's stage."""
    batch: int = 16
    """Windows of the generator's stage."""
    length: int = 9
    """Latents of a window; the first is given."""
    short: int = 3
    """The same in the first quarter of the generator's stage, with more windows a step."""
    own_past: float = 0.5
    """Share of windows whose flips are the generator's own errors, once it has learnt for a while."""
    imagined_outcomes: float = 0.0
    """Share of the arrivals of the outcome stage that follow a past which the generator imagines under the
    recorded controls; 0 with poses. It takes minutes, and did not bring imagined ends nearer to real ones."""
    ends: float = 0.1
    """Share of windows drawn around an episode's end."""
    end_weight: float = 10.0
    lr_scale: float = 1.0
    """Factor of all learning rates; lower when a trained world is trained further."""
    conditioning: Literal["keys", "both"] = "keys"
    """"both": keys and the camera's motion, in sources with poses; a pose can then be given at play."""

    def plan(self, spec: SourceSpec, poses: np.ndarray | None) -> NetworksConfig:
        """Plan the networks for a source; see ``TrainingRecipe.plan``.

        Raises:
            ConfigError: ``conditioning`` is "both", and the source has no poses, or a latent several frames.
        """
        if self.frames > 1 and self.conditioning == "both":
            rule = "latents of several frames are conditioned on keys alone"
            raise ConfigError(rule, self.frames, "choose frames=1, or conditioning=keys")
        poses = known_poses(spec, poses, self.conditioning)
        return NetworksConfig(
            tokenizer=BitsConfig(
                patch=max(1, round(spec.size[0] / _CELLS)),
                pool=self.pool,
                width=self.tokenizer_width,
                token_width=self.token_width,
                depth=self.tokenizer_depth,
                channels=self.bits,
                frames=self.frames,
            ),
            generator=NextScaleConfig(
                width=self.width,
                layers=self.layers,
                heads=self.heads,
                context=self.context,
                temporal_rope=self.temporal_rope,
            ),
            sampler=NextScaleSamplerConfig(
                flips=self.flips,
                flip_ramp=self.flip_ramp,
                flip_inheritance=self.flip_inheritance,
                hidden_frames=self.hidden_frames,
                guidance=(self.guidance, self.guidance),
            ),
            unit=NextScaleUnitConfig(),
            conditions=default_conditions(spec.control_space),
            heads=heads_of(poses, self.end_weight),
            twist_scale=twist_scale(poses),
            sample_ends=True,
        )

    def stages(self, networks: Networks, clips: ClipStore, warm: bool) -> list[Stage]:
        """Tokenizer, generator, then reward and end alone.

        Raises:
            ConfigError: networks of other parts.
        """
        tokenizer, generator = quantises_scales(networks.tokenizer), next_scale(networks)
        sequences = Sequences(clips, networks.device)
        draw = WindowDraw(batch=self.batch, length=self.length, ends=self.ends, own_past=self.own_past)
        dynamics = NextScaleObjective(networks, sequences, draw, self.short, warm)
        share = self.imagined_outcomes
        outcome = NextScaleOutcomeObjective(networks, sequences, dynamics, _OUTCOME_BATCH, share)
        weights, adversary = BitsLoss(steady=self.steady), self._adversary(networks)
        of_pixels = BitsObjective(tokenizer, sequences, self.tokenizer_batch, weights, warm, adversary)
        pixels = [weight for _, weight in networks.tokenizer.named_parameters()]
        learn: list[nn.Module] = [generator, networks.conditions, networks.heads]
        last: list[nn.Module] = [networks.heads.outcome]
        if not networks.has_poses:  # the motion of the camera is read from the same feature
            last.append(generator.agent_in)
        critic = None if adversary is None else adversary.discriminator
        groups = [self._group(pixels, 1.5e-3)]
        groups += [] if critic is None else [ParamGroup(list(critic.parameters()), _CRITIC_LR)]
        return [
            Stage("tokenizer", self.tokenizer_fraction, groups, of_pixels, companions=critic),
            Stage("generator", self.generator_fraction, [self._group(_weights(learn), 1.5e-3)], dynamics),
            Stage(
                "outcome",
                self.outcome_fraction,
                [self._group(_weights(last), 1e-3, 0.1)],
                outcome,
                on_start=outcome.start,
            ),
        ]

    def _adversary(self, networks: Networks) -> AdversarialLoss | None:
        """Adversarial and perceptual losses; None where both have no weight."""
        weights = AdversarialWeights(adversarial=self.adversarial, perceptual=self.perceptual)
        if not (self.adversarial or self.perceptual):
            return None
        return AdversarialLoss(Discriminator().to(networks.device), weights)

    def _group(self, weights: list[nn.Parameter], lr: float, weight_decay: float = 0.01) -> ParamGroup:
        return ParamGroup(weights, lr * self.lr_scale, weight_decay)


def _weights(modules: list[nn.Module]) -> list[nn.Parameter]:
    return [weight for module in modules for weight in module.parameters()]
