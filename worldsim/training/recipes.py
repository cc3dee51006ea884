"""Recipes: named configurations of network sizes and training stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec, StaticSceneSpec
from worldsim.errors import ConfigError, nearest
from worldsim.model.conditions import default_conditions
from worldsim.model.heads import HeadsConfig
from worldsim.model.transformer import TransformerConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.pixels import to_model
from worldsim.sampling.uncertainty import frame_contrast
from worldsim.scene.static_scene import StaticSceneConfig
from worldsim.scene.walkable_map import WalkableMapConfig
from worldsim.tokenizer.frame import FrameConfig
from worldsim.tokenizer.history import HistoryConfig
from worldsim.training.latent_dynamics import LatentDynamicsRecipe, plan_latent_networks


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Sizes of the networks, and fractions of the wall clock per stage.

    The fractions are normalised over the stages that run.
    """

    tokenizer: str = "history"
    """"history" (decoder sees the past) or "frame" (each frame alone)."""
    width: int = 192
    """Width of the generator."""
    layers: int = 2
    heads: int = 6
    context: int = 8
    conditioning: Literal["both", "keys", "pose"] = "both"
    """Conditions of the generator; with "keys" the world has neither poses nor a static scene."""
    prediction: Literal["clean", "velocity"] = "clean"
    context_noise: float = 0.1
    """Noise level of past latents in training (diffusion forcing); 0: they are clean (teacher forcing)."""
    tokenizer_width: int = 64
    tokenizer_depth: int = 3
    channels: int = 96
    scene_channels: int = 16
    wall_cell: float = 0.0225
    """Cell size of the scene's wall planes, in metres; a texel of the maze has 0.031."""
    floor_ceiling_cell: float = 0.05
    """Cell size of floor and ceiling, which are seen from farther away."""
    scene_fraction: float = 0.4
    motion_fraction: float = 0.04
    world_model_fraction: float = 0.44
    self_rollout_fraction: float = 0.12
    batch: int = 4
    length: int = 9
    """Frames of a clip: one more than the context, so that every position in it is trained."""
    lr_scale: float = 1.0
    """Factor of all learning rates; lower when a trained world is trained further."""


RECIPES: dict[str, Recipe | LatentDynamicsRecipe] = {
    "small": Recipe(),
    "base": Recipe(
        width=512,
        layers=8,
        heads=8,
        context=16,
        tokenizer_width=96,
        tokenizer_depth=4,
        scene_channels=24,
        batch=16,
        length=17,
    ),
    "large": Recipe(
        width=768,
        layers=14,
        heads=12,
        context=32,
        tokenizer_width=128,
        tokenizer_depth=6,
        channels=128,
        scene_channels=32,
        batch=32,
        length=33,
    ),
    "latent-dynamics": LatentDynamicsRecipe(),
    "latent-dynamics-gpu": LatentDynamicsRecipe(
        channels=192,
        vae_width=64,
        vae_depth=3,
        pixel_noise=0.025,
        width=576,
        layers=2,
        head_width=448,
        tokenizer_fraction=0.25,
        dynamics_fraction=0.7,
        outcome_fraction=0.05,
        vae_batch=192,
        batch=256,
        length=49,
    ),
}
"""About 5M parameters for play on a CPU, 30M and 100M for GPUs, the scene's planes not counted. Latent
dynamics, for worlds in which things move: 8M parameters, and 16M for training on a GPU and play on a CPU."""


def recipe_of(name: str) -> Recipe | LatentDynamicsRecipe:
    """Return the recipe of a name; raises ConfigError for an unknown one."""
    if name not in RECIPES:
        raise ConfigError(f"a recipe must be one of {', '.join(RECIPES)}", name, nearest(name, RECIPES))
    return RECIPES[name]


def plan_networks(
    recipe: Recipe | LatentDynamicsRecipe, spec: SourceSpec, poses: np.ndarray | None
) -> NetworksConfig:
    """Plan the networks for a source.

    ``poses`` [n, 4, 4] are those of its training frames in recorded order; None without poses.

    Raises:
        ConfigError: a tokenizer of another name.
    """
    if isinstance(recipe, LatentDynamicsRecipe):
        return plan_latent_networks(recipe, spec, poses)
    poses = None if recipe.conditioning == "keys" else poses
    scene, static = None, spec.static_scene
    if recipe.tokenizer == "history" and poses is not None and static is not None:
        scene = _plan_scene(poses, static, recipe)
    return NetworksConfig(
        tokenizer=_plan_tokenizer(recipe, scene),
        generator=TransformerConfig(
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            context=recipe.context,
            prediction=recipe.prediction,
        ),
        conditions=default_conditions(spec.control_space),
        heads=HeadsConfig(
            poses=poses is not None,
            camera_height=0.0 if poses is None else round(float(np.median(poses[:, 2, 3])), 4),
            idle_damping=None if static is None else static.idle_damping,
            uses_agent_token=scene is None,
        ),
        twist_scale=(0.1,) * 6 if poses is None else _twist_scale(poses),
        walkable_map=WalkableMapConfig(bounds=scene.bounds) if scene else None,
        condition_on_keys=recipe.conditioning != "pose",
        scale_noise_by_speed=scene is not None,
    )


def _plan_tokenizer(recipe: Recipe, scene: StaticSceneConfig | None) -> HistoryConfig | FrameConfig:
    sizes = {"width": recipe.tokenizer_width, "depth": recipe.tokenizer_depth, "channels": recipe.channels}
    if recipe.tokenizer == "history":
        return HistoryConfig(scene=scene, **sizes)
    if recipe.tokenizer == "frame":
        return FrameConfig(**sizes)
    raise ConfigError("a recipe's tokenizer must be history or frame", recipe.tokenizer)


def measure_contrast(clips: ClipStore, most: int = 1000) -> float:
    """Return the mean contrast of at most ``most`` of the frames."""
    frames = clips.frames[:: max(1, len(clips) // most)][:most]
    contrasts = [frame_contrast(to_model(part)) for part in np.array_split(frames, -(-len(frames) // 64))]
    return max(round(float(torch.cat(contrasts).mean()), 4), 1e-4)


def prepare_scene(networks: Networks, clips: ClipStore) -> None:
    """Mark positions that the camera visited as free space and as walkable."""
    if networks.scene is not None and clips.poses is not None:
        visited = torch.from_numpy(clips.poses[:, :2, 3])
        networks.scene.init_occupancy(visited.float())
        if networks.walkable_map is not None:
            networks.walkable_map.mark_visited(visited)


def _twist_scale(poses: np.ndarray) -> tuple[float, ...]:
    """Return the RMS of each twist component without jumps between episodes; 0 for constant ones."""
    twists = camera.log(camera.relative(poses[:-1], poses[1:]))
    steady = np.abs(twists[:, :3]).max(-1) < 4 * np.median(np.abs(twists[:, :3]).max(-1)) + 1e-3
    size = np.sqrt((twists[steady] ** 2).mean(0))
    return tuple(float(x) if x > 1e-4 else 0.0 for x in size)


def _plan_scene(
    poses: np.ndarray, static: StaticSceneSpec, recipe: Recipe, margin: float = 1.0
) -> StaticSceneConfig:
    """Return a scene around all camera positions, ``margin`` metres larger."""
    low, high = poses[:, :2, 3].min(0) - margin, poses[:, :2, 3].max(0) + margin
    bounds = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return StaticSceneConfig(
        bounds=bounds,
        floor=static.floor_height,
        ceiling=static.ceiling_height,
        floor_ceiling_cell=recipe.floor_ceiling_cell,
        wall_cell=recipe.wall_cell,
        channels=recipe.scene_channels,
    )
