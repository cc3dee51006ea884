"""Latent dynamics recipes, for worlds in which things move: a frame VAE and a recurrent generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import nn

from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError
from worldsim.model.conditions import default_conditions
from worldsim.model.recurrent import RecurrentConfig, RecurrentGenerator
from worldsim.networks import Networks, NetworksConfig
from worldsim.registry import register
from worldsim.sampling.remainder_flow import RemainderFlowConfig
from worldsim.tokenizer.protocol import normalises_latents
from worldsim.tokenizer.vae import VaeConfig
from worldsim.training.camera_paths import heads_of, known_poses, twist_scale
from worldsim.training.latent_dynamics_objective import LatentDynamicsObjective, WindowDraw
from worldsim.training.outcome_objective import OutcomeObjective
from worldsim.training.sequences import Sequences
from worldsim.training.stage import ParamGroup, Stage
from worldsim.training.vae_objective import VaeLoss, VaeObjective


@register("recipe", "latent-dynamics")
@dataclass(frozen=True, kw_only=True, slots=True)
class LatentDynamicsRecipe:
    """Sizes of the networks, and fractions of the wall clock per stage: 8M parameters.

    The fractions are normalised over the stages that run.
    """

    vector: bool = True
    """One latent vector for the whole frame; else a token for each block of pixels."""
    channels: int = 128
    """Latent numbers of a token."""
    vae_width: int = 48
    vae_depth: int = 2
    pixel_noise: float = 0.04
    """Deviation of a pixel in [0, 1] that the VAE is fitted with; smaller is sharper and costs more nats."""
    width: int = 512
    """Features of a token in the generator."""
    layers: int = 1
    """Memory layers."""
    memory: Literal["lstm", "attention"] = "lstm"
    context: int = 16
    heads: int = 8
    head_width: int = 384
    agent_memory: bool = False
    """Reward, end and policies read a memory of the whole episode; see ``RecurrentConfig``."""
    tokenizer_fraction: float = 0.4
    dynamics_fraction: float = 0.5
    outcome_fraction: float = 0.1
    """Reward and end alone: ends are few, and overfit if they are trained with all else."""
    vae_batch: int = 48
    batch: int = 16
    """Windows of the generator's stage."""
    length: int = 33
    """Arrivals in a window; the first is given."""
    outcome_batch: int = 4096
    """Arrivals in a step of the outcome stage."""
    imagined_outcomes: float = 0.0
    """Share of those arrivals in whose past the generator imagines some frames, a few in a row. Ends come
    sooner then, and more of them without a cause that is seen."""
    ends: float = 0.1
    """Share of windows drawn around an episode's end."""
    own_past: float = 0.7
    """Share of windows whose past holds samples of the generator itself."""
    past_noise: float = 0.5
    """Largest deviation of the noise on the past, in units of the latents'."""
    end_weight: float = 10.0
    lr_scale: float = 1.0
    """Factor of the learning rates of tokenizer and generator; lower for a world that is trained further."""
    keep_latents: bool = False
    """In a world that is trained further, the tokenizer's stage teaches the decoder alone: latents, and with
    them dynamics and policies, stay as they are."""
    conditioning: Literal["keys", "both"] = "keys"
    """"both": keys and the camera's motion, in sources with poses; a pose can then be given at play."""

    def plan(self, spec: SourceSpec, poses: np.ndarray | None) -> NetworksConfig:
        """Plan the networks for a source; see ``TrainingRecipe.plan``.

        Raises:
            ConfigError: ``conditioning`` is "both", and the source has no poses.
        """
        poses = known_poses(spec, poses, self.conditioning)
        block = _block(spec.size)
        return NetworksConfig(
            tokenizer=VaeConfig(
                patch=block[0],
                pool=block[1],
                width=self.vae_width,
                depth=self.vae_depth,
                channels=self.channels,
                vector=self.vector,
            ),
            generator=RecurrentConfig(
                width=self.width,
                layers=self.layers,
                memory=self.memory,
                context=self.context,
                heads=self.heads,
                head_width=self.head_width,
                agent_memory=self.agent_memory,
            ),
            sampler=RemainderFlowConfig(past_noise=self.past_noise),
            conditions=default_conditions(spec.control_space),
            heads=heads_of(poses, self.end_weight),
            twist_scale=twist_scale(poses),
            sample_ends=True,
        )

    def extend(self, config: NetworksConfig) -> NetworksConfig:
        """The networks of a world that is trained further, with the agent's memory if they lack it."""
        if not self.agent_memory or not isinstance(config.generator, RecurrentConfig):
            return config
        return replace(config, generator=replace(config.generator, agent_memory=True))

    def stages(self, networks: Networks, clips: ClipStore, warm: bool) -> list[Stage]:
        """Tokenizer, then generator and heads; a warm start keeps the latents' normalisation."""
        tokenizer = normalises_latents(networks.tokenizer)
        sequences = Sequences(clips, networks.device)
        draw = WindowDraw(batch=self.batch, length=self.length, ends=self.ends, own_past=self.own_past)
        dynamics = LatentDynamicsObjective(networks, sequences, draw, warm)
        outcome = OutcomeObjective(networks, sequences, dynamics, self.outcome_batch, self.imagined_outcomes)
        weights = self._tokenizer_weights(networks, warm)
        loss = VaeLoss(noise=self.pixel_noise)
        learn = [weight for part in _dynamics_modules(networks) for weight in part.parameters()]
        return [
            Stage(
                "tokenizer",
                self.tokenizer_fraction,
                [ParamGroup(weights, 2e-3 * self.lr_scale, 1e-4)],
                VaeObjective(tokenizer, sequences, self.vae_batch, loss, self.keep_latents),
            ),
            Stage(
                "dynamics",
                self.dynamics_fraction,
                [ParamGroup(learn, 1e-3 * self.lr_scale, 1e-4)],
                dynamics,
                None if warm else dynamics.start,
            ),
            Stage(
                "outcome",
                self.outcome_fraction,
                [_outcome_group(networks, warm)],
                outcome,
                outcome.start,
                should_end=outcome.verdict,
            ),
        ]

    def _tokenizer_weights(self, networks: Networks, warm: bool) -> list[nn.Parameter]:
        if not self.keep_latents:
            return [weight for _, weight in networks.tokenizer.named_parameters()]
        if not warm:
            rule = "only a world that is trained further has latents to keep"
            raise ConfigError(rule, "keep_latents=true", "add --init")
        return normalises_latents(networks.tokenizer).decoder_parameters()


@register("recipe", "latent-dynamics-gpu")
@dataclass(frozen=True, kw_only=True, slots=True)
class LatentDynamicsGpuRecipe(LatentDynamicsRecipe):
    """16M parameters, for training on a GPU and play on a CPU."""

    channels: int = 192
    vae_width: int = 64
    vae_depth: int = 3
    pixel_noise: float = 0.025
    width: int = 576
    layers: int = 2
    head_width: int = 448
    tokenizer_fraction: float = 0.25
    dynamics_fraction: float = 0.7
    outcome_fraction: float = 0.05
    vae_batch: int = 192
    batch: int = 256
    length: int = 49
    outcome_batch: int = 32768


def _outcome_group(networks: Networks, warm: bool) -> ParamGroup:
    """Return the weights of outcome and agent features, with weight decay.

    Agent features stay as they are in a world that is trained further, since its policies read them, and
    where the motion of the camera is read from them, too. A memory that is new to the world is learnt.
    """
    generator = networks.generator
    assert isinstance(generator, RecurrentGenerator)
    parts: list[nn.Module] = [networks.heads.outcome]
    memory = generator.agent_memory
    if not networks.has_poses:
        parts += [] if warm else [generator.agent_in]
        parts += [] if memory is None or (warm and memory.has_learnt) else [memory]
    return ParamGroup([weight for part in parts for weight in part.parameters()], 1e-3, 0.1)


def _dynamics_modules(networks: Networks) -> list[nn.Module]:
    generator = networks.generator
    assert isinstance(generator, nn.Module)
    return [generator, networks.conditions, networks.heads]


def _block(size: tuple[int, int]) -> tuple[int, int]:
    """Patch and pool of blocks of about a third of the frame's height, with the least padding."""
    patch = max(1, round(size[0] / 15))
    pools = range(3, 7)

    def padding(pool: int) -> int:
        block = patch * pool
        return (-size[0] % block) * size[1] + (-size[1] % block) * size[0]

    return patch, min(pools, key=lambda pool: (padding(pool), abs(pool - 5)))
