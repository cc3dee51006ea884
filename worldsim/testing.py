"""Worlds for tests: small, with random weights, made in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worldsim.camera import Intrinsics, from_planar
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.context import Context
from worldsim.controls import ControlSpace
from worldsim.data.spec import SourceSpec
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.model.heads import HeadsConfig
from worldsim.model.transformer import TransformerConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.scene.static_scene import StaticSceneConfig
from worldsim.scene.walkable_map import WalkableMapConfig
from worldsim.tokenizer.frame import FrameConfig
from worldsim.tokenizer.history import HistoryConfig

__all__ = ["tiny_world"]


def tiny_world(
    parent: Path, name: str = "tiny", *, tokenizer: str = "history", poses: bool = True, seed: int = 0
) -> Path:
    """Write a world of random weights: 80x60, the maze's controls, two starts. Returns its folder.

    With "history" and poses it has sizes that the kernels support.

    Args:
        parent: folder that the world's folder is made in.
        name: name of the world and of its folder.
        tokenizer: "history" or "frame".
        poses: whether its source has poses; with "history" the world then has a static scene.
        seed: seed of the weights.
    """
    source = _tiny_source(poses)
    config = _tiny_networks(source, tokenizer)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    starts = [_tiny_start(source, number, rng) for number in range(2)]
    world, networks = WorldConfig(name=name, source=source, networks=config), Networks(config, source)
    if networks.walkable_map is not None:
        networks.walkable_map.visited[8:-8, 8:-8] = 1
    save_world(parent / name, world, networks, starts, "# tiny\n")
    return parent / name


def _tiny_source(poses: bool) -> SourceSpec:
    discrete_actions = (
        (),
        *((key,) for key in DOOM_KEYS),
        ("forward", "turn_left"),
        ("forward", "turn_right"),
    )
    return SourceSpec(
        name="doom-maze",
        size=(60, 80),
        fps=17.5,
        control_space=ControlSpace(keys=DOOM_KEYS, yaw=True, pose=poses, discrete_actions=discrete_actions),
        intrinsics=Intrinsics(40.0, 48.0, 40.0, 30.0) if poses else None,
        has_pose=poses,
        unit_metres=1 / 32 if poses else None,
        tics=2,
    )


def _tiny_networks(source: SourceSpec, tokenizer: str) -> NetworksConfig:
    is_history = tokenizer == "history"
    wide, width, heads = (16, 64, 4) if is_history and source.has_pose else (8, 16, 2)
    scene = None
    if is_history and source.has_pose:
        scene = StaticSceneConfig(bounds=(0.0, 0.0, 4.0, 4.0), channels=16, hidden=64, samples=8)
    history = HistoryConfig(width=wide, depth=1, channels=4, scene=scene)
    return NetworksConfig(
        tokenizer=history if is_history else FrameConfig(width=wide, depth=1, channels=4, patch=10),
        generator=TransformerConfig(width=width, layers=2, heads=heads, context=6),
        heads=HeadsConfig(camera_height=1.3, poses=source.has_pose, uses_agent_token=scene is None),
        walkable_map=WalkableMapConfig(bounds=scene.bounds) if scene else None,
        scale_noise_by_speed=scene is not None,
    )


def _tiny_start(source: SourceSpec, number: int, rng: np.random.Generator) -> Context:
    still = np.zeros((5, source.control_space.size), np.float32)
    poses = from_planar(2.0 + 0.1 * np.arange(3), 2.0, 1.3, 0.5 * number) if source.has_pose else None
    frames = rng.integers(0, 256, (3, *source.size, 3), dtype=np.uint8)
    return Context(frames, still[:3], poses, seed=20 * number, action_prefix=still)
