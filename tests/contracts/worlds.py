"""Tiny worlds of every combination of registered parts that fit each other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny import random_like, stir
from worldsim import registry
from worldsim.camera import Intrinsics, from_planar
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.context import Context
from worldsim.controls import ActionBox, ControlSpace
from worldsim.data.spec import SourceSpec
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.model.conditions import default_conditions
from worldsim.model.heads import HeadsConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.scene.static_scene import StaticSceneConfig
from worldsim.scene.walkable_map import WalkableMapConfig

SIZE = (20, 40)
SCENE = StaticSceneConfig(bounds=(0.0, 0.0, 4.0, 4.0), channels=4, hidden=8, samples=8)
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "unit": {
        "frame": {},
        "cube": {"frames": 2, "splits": (2, 1, 2)},
        "key-detail": {"frames": 2, "groups": 2},
        "scales": {"levels": 2},
        "next-scale": {},
    },
    "tokenizer": {
        "history": {"patch": 5, "pool": 2, "width": 8, "depth": 1, "channels": 4},
        "frame": {"patch": 5, "pool": 2, "width": 8, "depth": 1, "channels": 4},
        "bits-plain": {"patch": 5, "pool": 2, "width": 8, "depth": 1, "channels": 4},
        "bits": {"patch": 5, "pool": 2, "width": 8, "token_width": 8, "depth": 1, "channels": 4},
        "vae": {"patch": 5, "pool": 2, "width": 8, "depth": 1, "bottleneck": 8, "channels": 4},
    },
    "generator": {
        "transformer": {"width": 16, "layers": 2, "heads": 2, "context": 4},
        "recurrent": {
            "width": 16,
            "layers": 1,
            "embedding": 8,
            "head_width": 16,
            "head_blocks": 1,
            "agent": 8,
            "agent_memory": True,
        },
        "next-scale": {"width": 16, "layers": 2, "heads": 2, "context": 3, "embedding": 8, "agent": 8},
    },
    "sampler": {"flow": {}, "remainder-flow": {}, "bernoulli": {}, "next-scale": {}},
}
"""Sizes of each registered part; one that is missing here fails the suite."""
PRIORS: dict[str, tuple[str, Any] | None] = {
    "none": None,
    "scene": ("scene", SCENE),
    "flow": ("flow_prior", True),
    "clip": ("frames", 2),
}
"""Prior -> the field of a tokenizer's config that it takes, and its value."""


@dataclass(frozen=True)
class Parts:
    """One combination."""

    unit: str
    tokenizer: str
    generator: str
    sampler: str
    prior: str
    """"scene": a static scene; "flow": a flow prior; "clip": latents of two frames; "none": none of them."""

    def __str__(self) -> str:
        return "+".join((self.unit, self.tokenizer, self.generator, self.sampler, self.prior))

    @property
    def scene(self) -> bool:
        """There is a static scene."""
        return self.prior == "scene"

    @property
    def fits(self) -> bool:
        """The parts are for each other."""
        scales = [self.unit, self.tokenizer == "bits", self.generator, self.sampler]
        if "next-scale" in scales or scales[1]:
            plain = self.unit == "frame" and self.tokenizer == "bits-plain"
            return scales[2:] == ["next-scale"] * 2 and (plain or scales[:2] == ["next-scale", True])
        sampler = {"recurrent": "remainder-flow", "transformer": "flow"}[self.generator]
        if self.tokenizer == "bits-plain":
            sampler = "bernoulli" if self.generator == "transformer" and self.unit == "frame" else ""
        return self.sampler == sampler and (self.generator != "recurrent" or self.unit == "frame")

    def config(self, conditions: tuple[Any, ...] = (), poses: bool = True) -> NetworksConfig:
        """The combination as a config."""
        names = {kind: getattr(self, kind) for kind in TINY}
        made: dict[str, Any] = {}
        for kind, name in names.items():
            made[kind] = registry.config_class(kind, name)(**TINY[kind].get(name, {}))
        if (change := PRIORS[self.prior]) is not None:
            made["tokenizer"] = dataclasses.replace(made["tokenizer"], **dict([change]))
        return NetworksConfig(
            **made,
            conditions=conditions,
            heads=HeadsConfig(camera_height=1.3, twists=2, poses=poses),
            walkable_map=WalkableMapConfig(bounds=SCENE.bounds) if self.scene else None,
            scale_noise_by_speed=self.scene,
        )


def product_of_parts() -> list[Parts]:
    """All combinations; only tokenizers that can have a static scene, a flow prior or clips have them."""
    found = []
    for names in product(*(registry.names(kind) for kind in TINY)):
        config = registry.config_class("tokenizer", names[1])
        holds = {field.name for field in dataclasses.fields(config)}
        priors = [prior for prior, change in PRIORS.items() if change is None or change[0] in holds]
        found += [Parts(*names, prior=prior) for prior in priors]
    return found


def source(prompts: tuple[str, ...] = (), action: ActionBox | None = None, poses: bool = True) -> SourceSpec:
    """A camera with keys, and with poses or without."""
    return SourceSpec(
        name="tiny",
        size=SIZE,
        fps=10.0,
        control_space=ControlSpace(
            keys=DOOM_KEYS,
            yaw=True,
            pose=poses,
            discrete_actions=((), ("forward",), ("turn_left",)),
            prompts=prompts,
            action=action,
        ),
        intrinsics=Intrinsics(20.0, 20.0, 20.0, 10.0) if poses else None,
        has_pose=poses,
        unit_metres=1.0 if poses else None,
    )


def write_world(
    folder: Path,
    parts: Parts,
    prompts: tuple[str, ...] = (),
    action: ActionBox | None = None,
    poses: bool = True,
) -> Path:
    """A world of these parts whose weights are all stirred."""
    torch.manual_seed(0)
    spec = source(prompts, action, poses)
    config = parts.config(default_conditions(spec.control_space), poses)
    networks = Networks(config, spec)
    stir(networks)
    if networks.walkable_map is not None:
        networks.walkable_map.visited[8:-8, 8:-8] = 1
    rng = np.random.default_rng(0)
    starts = [
        Context(
            rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8),
            np.zeros((3, spec.control_space.size), np.float32),
            from_planar(2.0 + 0.1 * np.arange(3), 2.0, 1.3, 0.5 * number) if poses else None,
        )
        for number in range(2)
    ]
    save_world(folder, WorldConfig(name="tiny", source=spec, networks=config), networks, starts, "# tiny\n")
    return folder


def latents_of(networks: Networks, batch: int, units: int, seed: int) -> torch.Tensor:
    """Random latents of the tokenizer's kind, as tokens of units [B, T, N, C]."""
    spec, frames = networks.tokenizer.latent_spec, networks.unit.frames
    drawn = random_like((batch, units, frames * spec.tokens, spec.channels), seed).tanh()
    return networks.unit_tokens(torch.where(drawn > 0, 1.0, -1.0) if spec.kind == "bits" else drawn)
