"""The recipe of prediction units: tokenizer, base, causal fine-tuning, Symmetric DMD ([Units])."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import lcm

import numpy as np
from torch import nn

from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError
from worldsim.model.conditions import default_conditions
from worldsim.model.heads import HeadsConfig
from worldsim.model.transformer import Transformer, TransformerConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.registry import register
from worldsim.sampling.flow import FlowConfig
from worldsim.tokenizer.protocol import normalises_latents
from worldsim.tokenizer.vae import VaeConfig
from worldsim.training.distillation.clips import FrameLatents, UnitClips
from worldsim.training.distillation.denoiser import ClipDenoiser
from worldsim.training.distillation.motion_watch import LEAST_RATIO, MotionWatch
from worldsim.training.distillation.objectives import (
    BaseObjective,
    BaseSamples,
    CausalData,
    CausalObjective,
    UnitOutcomeObjective,
)
from worldsim.training.distillation.symmetric_dmd import (
    DIRECTIONS,
    DmdSettings,
    ScorerName,
    SymmetricDmdObjective,
)
from worldsim.training.distillation.transfer import transfer
from worldsim.training.sequences import Sequences
from worldsim.training.stage import ParamGroup, Stage
from worldsim.training.vae_objective import VaeLoss, VaeObjective
from worldsim.units import CubeUnitConfig, FrameUnitConfig, UnitConfig, read_unit


@register("recipe", "units")
@dataclass(frozen=True, kw_only=True, slots=True)
class UnitsRecipe:
    """Sizes of the networks, and fractions of the wall clock per stage: 3M parameters.

    The fractions are normalised over the stages that run; a stage of fraction 0 is left out. Without the base
    causal training begins from scratch, and there is no distillation: that made the best worlds in trainings
    of minutes. With ``base_fraction`` above 0 it is [Units]' order: base, causal fine-tuning, Symmetric DMD.
    """

    unit: str = "frame"
    """Unit, e.g. cube:4/2x2x2; see ``worldsim.units.read_unit``."""
    other_units: str = ""
    """More units between commas, of as many frames and tokens: the generator learns all of them."""
    chunk: int = 4
    """Frames that the base attends to within one of its units; it sees all units."""
    scorer: ScorerName = "symmetric"
    """Scorers of generated data."""
    causal_data: CausalData = "data"
    """Clips of causal fine-tuning."""
    patch: int = 5
    pool: int = 2
    """A token covers patch x pool pixels to a side: 10, which makes 6 x 8 tokens of 60x80."""
    channels: int = 8
    """Latent numbers of a token."""
    shows_past: bool = True
    """The generator is shown the latent of the frame before."""
    draws_latents: bool = False
    """Latents are drawn from the posterior; else they are its means, and nothing has to be predicted that
    no frame shows: a short training follows the keys sooner."""
    vae_width: int = 48
    vae_depth: int = 2
    pixel_noise: float = 0.04
    """Deviation of a pixel in [0, 1] that the VAE is fitted with."""
    width: int = 192
    """Width of generator, base and scorers."""
    layers: int = 4
    heads: int = 6
    favours_noise: bool = True
    """See ``FlowConfig``."""
    context: int = 16
    """Frames of past that the generator sees; play may show it fewer, not more."""
    tokenizer_fraction: float = 0.3
    base_fraction: float = 0.0
    causal_fraction: float = 0.6
    distillation_fraction: float = 0.2
    outcome_fraction: float = 0.03
    """Reward and end, after the generator has changed last."""
    vae_batch: int = 48
    batch: int = 8
    length: int = 16
    """Frames of a clip: whole units of generator and base, and at least two."""
    denoising_steps: tuple[int, ...] = (1, 2, 4)
    """K of the roll-outs that are distilled."""
    generator_every: int = 3
    """Steps of the scorers for one of the generator."""
    scorer_warm_up: float = 0.5
    """Share of the distillation in which the scorers learn alone."""
    least_motion: float = LEAST_RATIO
    """Ratio of imagined to real motion below which the distillation ends."""
    end_weight: float = 10.0
    lr: float = 1e-3
    """Learning rate of tokenizer, base and causal fine-tuning."""
    generator_lr: float = 2e-5
    scorer_lr: float = 5e-4
    lr_scale: float = 1.0
    """Factor of all learning rates; lower when a trained world is trained further."""

    def __post_init__(self) -> None:
        frames = {getattr(read_unit(text), "frames", 1) for text in self._unit_texts}
        whole = lcm(self.chunk, *frames)
        if self.length % whole or self.length < 2 * whole:
            rule = f"a clip must have a multiple of {whole} frames, at least {2 * whole}, for units and base"
            raise ConfigError(rule, self.length, f"choose length={2 * whole}")

    @property
    def _unit_texts(self) -> list[str]:
        return [self.unit, *filter(None, self.other_units.split(","))]

    def plan(self, spec: SourceSpec, poses: np.ndarray | None) -> NetworksConfig:
        """Plan the networks for a source; poses are not used: the generator is conditioned on keys alone."""
        unit, *others = map(read_unit, self._unit_texts)
        context = max(2, self.context // getattr(unit, "frames", 1))
        return NetworksConfig(
            tokenizer=VaeConfig(
                patch=self.patch,
                pool=self.pool,
                width=self.vae_width,
                depth=self.vae_depth,
                channels=self.channels,
                vector=False,
                shows_past=self.shows_past,
            ),
            generator=TransformerConfig(
                width=self.width,
                layers=self.layers,
                heads=self.heads,
                context=context,
                max_context=context,
                time_axis=True,
            ),
            sampler=FlowConfig(favours_noise=self.favours_noise),
            unit=unit,
            other_units=tuple(others),
            conditions=default_conditions(spec.control_space),
            heads=HeadsConfig(poses=False, end_weight=self.end_weight),
            sample_ends=True,
        )

    def stages(self, networks: Networks, clips: ClipStore, warm: bool) -> list[Stage]:
        """Tokenizer, base, causal fine-tuning, distillation, outcome; a warm start keeps the generator."""
        return UnitStages(self, networks, clips, warm).all()


class Companions(nn.Module):
    """Networks beside the world's: the base, and scorers of generated data by direction."""

    def __init__(self, recipe: UnitsRecipe, networks: Networks) -> None:
        super().__init__()
        self.base = _denoiser(networks, CubeUnitConfig(frames=recipe.chunk)).look("full")
        self.scorers = nn.ModuleDict()
        for direction in DIRECTIONS[recipe.scorer]:
            made = _denoiser(networks, _scorer_unit(recipe, networks, direction))
            self.scorers[f"looks_{direction}"] = made.look(direction)

    def start_scorers(self, generator: Transformer, shows_past: bool) -> None:
        """Give the scorers their first weights: the generator's, or the base's.

        A full scorer gets the base's. So do all where the generator is shown the frame before
        (``shows_past``): it predicts little without that.
        """
        for scorer in self.scorers.values():
            assert isinstance(scorer, ClipDenoiser)
            from_base = shows_past or scorer.transformer.direction == "full"
            transfer(self.base.transformer if from_base else generator, scorer.transformer)


class UnitStages:
    """The stages of a recipe, for given networks and data."""

    def __init__(self, recipe: UnitsRecipe, networks: Networks, clips: ClipStore, warm: bool) -> None:
        self.recipe, self.networks, self.warm = recipe, networks, warm
        generator = networks.generator
        assert isinstance(generator, Transformer), "as the recipe plans it"
        self.generator = generator
        self.sequences = Sequences(clips, networks.device)
        latents = FrameLatents(normalises_latents(networks.tokenizer), self.sequences, recipe.draws_latents)
        self.clips = UnitClips(networks, self.sequences, latents, recipe.batch, recipe.length, ends=0.1)
        self.companions = Companions(recipe, networks).to(networks.device)
        self.given = lcm(recipe.chunk, networks.unit.frames)

    def all(self) -> list[Stage]:
        """Those that have a share of the time."""
        recipe = self.recipe
        stages = [self._tokenizer(), self._base(), self._causal(), self._distillation(), self._outcome()]
        absent = set() if recipe.base_fraction > 0 else {"base", "distillation"}
        return [stage for stage in stages if stage.time_fraction > 0 and stage.name not in absent]

    def _tokenizer(self) -> Stage:
        recipe, tokenizer = self.recipe, normalises_latents(self.networks.tokenizer)
        weights = [weight for _, weight in self.networks.tokenizer.named_parameters()]
        loss = VaeLoss(noise=recipe.pixel_noise)
        objective = VaeObjective(tokenizer, self.sequences, recipe.vae_batch, loss)
        group = ParamGroup(weights, 2 * recipe.lr * recipe.lr_scale, 1e-4)
        return Stage("tokenizer", recipe.tokenizer_fraction, [group], objective, companions=self.companions)

    def _base(self) -> Stage:
        recipe = self.recipe
        learn = [*self.companions.base.parameters(), *self.networks.conditions.parameters()]
        return Stage(
            "base",
            recipe.base_fraction,
            [ParamGroup(learn, recipe.lr * recipe.lr_scale, 1e-4)],
            BaseObjective(self.companions.base, self.clips, self.given),
            None if self.warm else self.clips.latents.normalise,
            companions=self.companions,
        )

    def _causal(self) -> Stage:
        recipe, networks = self.recipe, self.networks
        learn = [
            *self.generator.parameters(),
            *networks.conditions.parameters(),
            *networks.heads.parameters(),
        ]
        samples = None
        if recipe.base_fraction > 0 and recipe.causal_data != "data":
            samples = BaseSamples(self.companions.base, self.clips, self.given)
        return Stage(
            "causal",
            recipe.causal_fraction,
            [ParamGroup(learn, recipe.lr * recipe.lr_scale, 1e-4)],
            CausalObjective(networks, self.clips, samples, recipe.causal_data),
            None if self.warm else self._start_causal,
            companions=self.companions,
        )

    def _start_causal(self) -> None:
        if self.recipe.base_fraction > 0:
            transfer(self.companions.base.transformer, self.generator)
        else:
            self.clips.latents.normalise()

    def _distillation(self) -> Stage:
        recipe, companions = self.recipe, self.companions
        watch = MotionWatch(self.generator, recipe.least_motion)
        settings = DmdSettings(
            given=self.given,
            denoising_steps=recipe.denoising_steps,
            generator_every=recipe.generator_every,
            warm_up=recipe.scorer_warm_up,
        )
        scorers = companions.scorers
        return Stage(
            "distillation",
            recipe.distillation_fraction,
            [
                ParamGroup(list(self.generator.parameters()), recipe.generator_lr * recipe.lr_scale),
                ParamGroup(list(scorers.parameters()), recipe.scorer_lr * recipe.lr_scale),
            ],
            SymmetricDmdObjective(self.networks, self.clips, companions.base, scorers, settings, watch),
            partial(companions.start_scorers, self.generator, self.networks.tokenizer.uses_previous_frame),
            companions=companions,
            should_end=watch.verdict,
            betas=(0.0, 0.99),
        )

    def _outcome(self) -> Stage:
        recipe, heads = self.recipe, self.networks.heads
        group = ParamGroup(list(heads.parameters()), recipe.lr * recipe.lr_scale, 0.01)
        objective = UnitOutcomeObjective(self.networks, self.clips)
        return Stage("outcome", recipe.outcome_fraction, [group], objective, companions=self.companions)


def _scorer_unit(recipe: UnitsRecipe, networks: Networks, direction: str) -> UnitConfig:
    """The unit of a scorer: the generator's, so that it is causal as that is; frames for units of scales.

    A scorer sees a clip's latents; it would learn more of them from noisy averages than the base is shown.
    """
    if direction == "full":
        return CubeUnitConfig(frames=recipe.chunk)
    unit: UnitConfig = networks.config.unit
    return FrameUnitConfig() if networks.latent_tokens is not None else unit


def _denoiser(networks: Networks, config: UnitConfig) -> ClipDenoiser:
    """A denoiser of the generator's sizes, with fresh weights, for clips of the unit."""
    latent = networks.tokenizer.latent_spec
    unit, channels = config.build(latent), networks.tokenizer.prior_channels
    planned: TransformerConfig = networks.config.generator
    made = planned.build(unit, latent, channels, unit.frames * networks.condition_size)
    return ClipDenoiser(made, channels)
