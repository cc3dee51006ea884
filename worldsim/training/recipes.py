"""Recipes: named configurations of network sizes and training stages.

A recipe is a part: it registers itself by name, plans the networks of a source and its stages of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from worldsim import registry
from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec, StaticSceneSpec
from worldsim.errors import ConfigError
from worldsim.model.conditions import default_conditions
from worldsim.model.heads import HeadsConfig
from worldsim.model.transformer import TransformerConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.pixels import to_model
from worldsim.registry import register
from worldsim.sampling.uncertainty import frame_contrast
from worldsim.scene.static_scene import StaticSceneConfig
from worldsim.scene.walkable_map import WalkableMapConfig
from worldsim.tokenizer.frame import FrameConfig
from worldsim.tokenizer.history import HistoryConfig
from worldsim.training import latent_dynamics as latent_dynamics  # registers its recipes
from worldsim.training import next_scale as next_scale
from worldsim.training.camera_paths import median_height, twist_scale
from worldsim.training.distillation import recipe as units_recipe  # noqa: F401  # registers it
from worldsim.training.plan import world_model_stages
from worldsim.training.protocol import TrainingRecipe
from worldsim.training.stage import Stage


@register("recipe", "small")
@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Sizes of the networks, and fractions of the wall clock per stage.

    About 5M parameters, for play on a CPU; the scene's planes are not counted. The fractions are normalised
    over the stages that run.
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
    flow_prior: bool = True
    """Learn to warp the previous frame, in worlds without a static scene."""
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

    def plan(self, spec: SourceSpec, poses: np.ndarray | None) -> NetworksConfig:
        """Plan the networks for a source; see ``TrainingRecipe.plan``.

        Raises:
            ConfigError: a tokenizer of another name.
        """
        poses = None if self.conditioning == "keys" else poses
        scene, static = None, spec.static_scene
        if self.tokenizer == "history" and poses is not None and static is not None:
            scene = _plan_scene(poses, static, self)
        return NetworksConfig(
            tokenizer=_plan_tokenizer(self, scene),
            generator=TransformerConfig(
                width=self.width,
                layers=self.layers,
                heads=self.heads,
                context=self.context,
                prediction=self.prediction,
            ),
            conditions=default_conditions(spec.control_space),
            heads=HeadsConfig(
                poses=poses is not None,
                camera_height=0.0 if poses is None else median_height(poses),
                idle_damping=None if static is None else static.idle_damping,
                uses_agent_token=scene is None,
            ),
            twist_scale=twist_scale(poses),
            walkable_map=WalkableMapConfig(bounds=scene.bounds) if scene else None,
            condition_on_keys=self.conditioning != "pose",
            scale_noise_by_speed=scene is not None,
        )

    def stages(self, networks: Networks, clips: ClipStore, warm: bool) -> list[Stage]:
        """Static scene and motion where there is a scene, then the world model and self-rollouts."""
        return world_model_stages(self, networks, clips, warm)


@register("recipe", "base")
@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRecipe(Recipe):
    """About 30M parameters, for a GPU."""

    width: int = 512
    layers: int = 8
    heads: int = 8
    context: int = 16
    tokenizer_width: int = 96
    tokenizer_depth: int = 4
    scene_channels: int = 24
    batch: int = 16
    length: int = 17


@register("recipe", "large")
@dataclass(frozen=True, kw_only=True, slots=True)
class LargeRecipe(Recipe):
    """About 100M parameters, for a GPU."""

    width: int = 768
    layers: int = 14
    heads: int = 12
    context: int = 32
    tokenizer_width: int = 128
    tokenizer_depth: int = 6
    channels: int = 128
    scene_channels: int = 32
    batch: int = 32
    length: int = 33


def recipe_names() -> tuple[str, ...]:
    """The registered recipes, sorted."""
    return registry.names("recipe")


def default_recipe(spec: SourceSpec) -> str:
    """Name of the recipe for a source that none was chosen for: "latent-dynamics" where things may move."""
    return "latent-dynamics" if spec.static_scene is None else "small"


def recipe_of(name: str) -> TrainingRecipe:
    """The recipe of a name, or of "module:name", with its default sizes.

    Raises:
        ConfigError: no recipe has this name (the nearest is given), or the module cannot be imported.
    """
    made: TrainingRecipe = registry.find_part("recipe", name)()
    return made


def _plan_tokenizer(recipe: Recipe, scene: StaticSceneConfig | None) -> HistoryConfig | FrameConfig:
    sizes = {"width": recipe.tokenizer_width, "depth": recipe.tokenizer_depth, "channels": recipe.channels}
    if recipe.tokenizer == "history":
        return HistoryConfig(scene=scene, flow_prior=scene is None and recipe.flow_prior, **sizes)
    if recipe.tokenizer == "frame":
        return FrameConfig(**sizes)
    raise ConfigError("a recipe's tokenizer must be history or frame", recipe.tokenizer)


def measure_contrast(clips: ClipStore, most: int = 1000) -> float:
    """Return the mean contrast of at most ``most`` of the frames."""
    frames = clips.frames[:: max(1, len(clips) // most)][:most]
    contrasts = [frame_contrast(to_model(part)) for part in np.array_split(frames, -(-len(frames) // 64))]
    return max(round(float(torch.cat(contrasts).mean()), 4), 1e-4)


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
