"""Ranges of the fields of recipes: what is out of range is refused before any data is read."""

from __future__ import annotations

import dataclasses
from typing import Any

from worldsim.errors import ConfigError

__all__ = ["RANGES", "check_recipe"]

_COUNTS = (
    "width", "token_width", "tokenizer_width", "vae_width", "head_width", "layers", "heads", "channels",
    "scene_channels", "bits", "pool", "patch", "chunk", "batch", "vae_batch", "tokenizer_batch",
    "generator_every", "outcome_batch",
)  # fmt: skip
_SHARES = (
    "context_noise",
    "ends",
    "own_past",
    "imagined_outcomes",
    "scorer_warm_up",
    "flips",
    "flip_ramp",
    "hidden_frames",
)
_WEIGHTS = ("past_noise", "steady", "adversarial", "perceptual", "end_weight", "least_motion")
_RATES = ("lr_scale", "lr", "generator_lr", "scorer_lr")

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_COUNTS, (1, 65_536)),
    **dict.fromkeys(_SHARES, (0, 1)),
    **dict.fromkeys(_WEIGHTS, (0, 1000)),
    **dict.fromkeys(_RATES, (1e-9, 1000)),
    **dict.fromkeys(("tokenizer_depth", "vae_depth"), (0, 256)),
    **dict.fromkeys(("context", "length", "short"), (2, 4096)),
    **dict.fromkeys(("wall_cell", "floor_ceiling_cell"), (0.001, 1000)),
    "pixel_noise": (1e-6, 1),
    "frames": (1, 64),
    "guidance": (0, 100),
}
"""Least and greatest value of a field, by its name. Fractions of the wall clock may be any from 0 on."""


def check_recipe(recipe: Any) -> None:
    """Check the numbers of a recipe.

    Raises:
        ConfigError: one is out of range.
    """
    for field in dataclasses.fields(recipe):
        bounds = (0.0, 1e6) if field.name.endswith("_fraction") else RANGES.get(field.name)
        value = getattr(recipe, field.name)
        if bounds is None or not isinstance(value, int | float) or bounds[0] <= value <= bounds[1]:
            continue
        rule = f"a recipe's {field.name} must be in {bounds[0]:g}..{bounds[1]:g}"
        nearest = max(bounds[0], min(bounds[1], value))
        raise ConfigError(rule, value, f"choose --set {field.name}={nearest:g}")
