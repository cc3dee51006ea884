"""A tiny world in which things move, of random weights: a frame VAE and a recurrent generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.tiny import stir
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.context import Context
from worldsim.controls import ControlSpace
from worldsim.data.spec import SourceSpec
from worldsim.networks import Networks
from worldsim.training.latent_dynamics import LatentDynamicsRecipe

_DODGES = ("strafe_left", "strafe_right")
SPEC = SourceSpec(
    name="take-cover",
    size=(60, 80),
    fps=17.5,
    control_space=ControlSpace(
        keys=_DODGES, yaw=False, pose=False, discrete_actions=((), *((key,) for key in _DODGES))
    ),
    tics=2,
)
RECIPE = LatentDynamicsRecipe(channels=6, vae_width=8, vae_depth=1, width=16, head_width=16, heads=2)


def moving_world(parent: Path, name: str = "take-cover", seed: int = 0, spec: SourceSpec = SPEC) -> Path:
    """Write it, with two starts of three random frames; returns its folder."""
    torch.manual_seed(seed)
    networks = Networks(RECIPE.plan(spec, None), spec)
    stir(networks, seed + 1)
    rng = np.random.default_rng(seed)
    starts = [
        Context(
            rng.integers(0, 256, (3, *spec.size, 3), dtype=np.uint8),
            np.zeros((3, spec.control_space.size), np.float32),
        )
        for _ in range(2)
    ]
    config = WorldConfig(name=name, source=spec, networks=networks.config)
    save_world(parent / name, config, networks, starts, "# tiny\n")
    return parent / name
