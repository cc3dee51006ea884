"""Recipes: a name, a source and its data to networks and a plan of stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError, nearest
from worldsim.model.generator import GeneratorConfig
from worldsim.model.heads import HeadsConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.tokenizer.frame import FrameConfig
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer
from worldsim.tokenizer.place import PlaceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Sizes and the division of the wall clock. Shares are of the minutes given and are normalised over the stages that run."""

    tokenizer: str = "history"
    """"history" (decoder sees the past) or "frame" (each frame alone)."""
    width: int = 192
    layers: int = 4
    heads: int = 6
    context: int = 8
    tokenizer_width: int = 64
    tokenizer_depth: int = 3
    channels: int = 32
    place_channels: int = 16
    place_share: float = 0.4
    motion_share: float = 0.04
    dream_share: float = 0.44
    rollout_share: float = 0.12
    batch: int = 4
    length: int = 9
    """Frames of a clip: one more than the context, so that no age in play is new."""


RECIPES: dict[str, Callable[[], Recipe]] = {
    "small": Recipe,
    "base": lambda: Recipe(
        width=512,
        layers=8,
        heads=8,
        context=16,
        tokenizer_width=96,
        tokenizer_depth=4,
        place_channels=24,
        batch=16,
        length=17,
    ),
    "large": lambda: Recipe(
        width=768,
        layers=14,
        heads=12,
        context=32,
        tokenizer_width=128,
        tokenizer_depth=6,
        channels=32,
        place_channels=32,
        batch=32,
        length=33,
    ),
}
"""About 5M parameters for play on a CPU, 30M and 100M for GPUs, the place's planes not counted."""

SCENES: dict[str, tuple[float, float]] = {"doom-maze": (0.0, 4.0)}
"""Sources that are one still place between one floor and one ceiling, and the heights of these in metres."""


def recipe_of(name: str) -> Recipe:
    """Raises ConfigError for an unknown name."""
    if name not in RECIPES:
        close = nearest(name, RECIPES)
        raise ConfigError(
            f"a recipe must be one of {', '.join(RECIPES)}", name, f"did you mean {close!r}?" if close else ""
        )
    return RECIPES[name]()


def plan_networks(recipe: Recipe, spec: SourceSpec, poses: np.ndarray | None) -> NetworksConfig:
    """The networks for a source; ``poses`` [n, 4, 4] are its training poses in recorded order, None without poses."""
    keys = spec.control_space.size
    place = None
    scale = (0.1,) * 6
    if poses is not None:
        scale = _twist_scale(poses)
        if spec.name in SCENES and recipe.tokenizer == "history":
            place = _place_around(poses, *SCENES[spec.name], channels=recipe.place_channels)
    history = frame = None
    if recipe.tokenizer == "history":
        history = HistoryConfig(
            size=spec.size,
            control=keys + 6,
            intrinsics=spec.intrinsics,
            place=place,
            width=recipe.tokenizer_width,
            depth=recipe.tokenizer_depth,
            channels=recipe.channels,
        )
    elif recipe.tokenizer == "frame":
        frame = FrameConfig(
            size=spec.size,
            control=keys + 6,
            width=recipe.tokenizer_width,
            depth=recipe.tokenizer_depth,
            channels=recipe.channels,
        )
    else:
        raise ConfigError("a recipe's tokenizer must be history or frame", recipe.tokenizer)
    view = 6 * history.pool**2 if history else 1
    surroundings = 16 * 6 + place.channels if place else 0
    return NetworksConfig(
        generator=GeneratorConfig(
            channels=recipe.channels,
            view=view,
            control=keys + 6,
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            context=recipe.context,
        ),
        heads=HeadsConfig(
            width=recipe.width, control=keys, surroundings=surroundings, poses=poses is not None
        ),
        history=history,
        frame=frame,
        twist_scale=scale,
    )


def prepare_place(networks: Networks, clips: ClipStore) -> None:
    """Mark what the camera has visited as free space."""
    tokenizer = networks.tokenizer
    if isinstance(tokenizer, HistoryTokenizer) and tokenizer.place is not None and clips.poses is not None:
        import torch

        tokenizer.place.mark_free(torch.from_numpy(clips.poses[:, :2, 3]).float())


def _twist_scale(poses: np.ndarray) -> tuple[float, ...]:
    """Root mean square of each twist component, leaving out jumps between episodes; 0 for what never moves."""
    twists = camera.log(camera.relative(poses[:-1], poses[1:]))
    steady = np.abs(twists[:, :3]).max(-1) < 4 * np.median(np.abs(twists[:, :3]).max(-1)) + 1e-3
    size = np.sqrt((twists[steady] ** 2).mean(0))
    return tuple(float(x) if x > 1e-4 else 0.0 for x in size)


def _place_around(
    poses: np.ndarray, floor: float, ceiling: float, channels: int, margin: float = 1.0
) -> PlaceConfig:
    low, high = poses[:, :2, 3].min(0) - margin, poses[:, :2, 3].max(0) + margin
    bounds = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return PlaceConfig(bounds=bounds, floor=floor, ceiling=ceiling, channels=channels)
