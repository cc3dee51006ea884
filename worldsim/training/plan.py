"""Stages of a world model recipe for given networks and data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from worldsim.data.clips import ClipStore
from worldsim.model.heads import Heads
from worldsim.networks import Networks
from worldsim.scene.static_scene import StaticScene
from worldsim.training.motion_objective import fit_linear_dynamics, motion_objective
from worldsim.training.scene_objective import scene_objective
from worldsim.training.self_rollout_objective import self_rollout_objective
from worldsim.training.stage import ParamGroup, Stage
from worldsim.training.world_model_objective import world_model_objective

if TYPE_CHECKING:
    from worldsim.training.recipes import Recipe


def prepare_scene(networks: Networks, clips: ClipStore) -> None:
    """Mark positions that the camera visited as free space and as walkable."""
    if networks.scene is not None and clips.poses is not None:
        visited = torch.from_numpy(clips.poses[:, :2, 3])
        networks.scene.init_occupancy(visited.float())
        if networks.walkable_map is not None:
            networks.walkable_map.mark_visited(visited)


def world_model_stages(recipe: Recipe, networks: Networks, clips: ClipStore, warm: bool) -> list[Stage]:
    """Return the stages in order. ``warm``: the weights are trained, none is initialised from the data."""
    stages, tokenizer, scene = [], networks.tokenizer, networks.scene
    if scene is not None:
        start = None if warm else partial(prepare_scene, networks, clips)
        objective = scene_objective(scene, clips)
        groups = _scene_groups(scene, recipe.lr_scale)
        stages.append(Stage("scene", recipe.scene_fraction, groups, objective, start))
        if networks.heads.motion is not None:
            start = None if warm else partial(fit_linear_dynamics, networks, clips)
            objective, groups = (
                motion_objective(networks, clips, warm=warm),
                _heads_groups(networks.heads, recipe.lr_scale),
            )
            stages.append(Stage("motion", recipe.motion_fraction, groups, objective, start))
    parameters = _world_model_parameters(networks)
    objective = world_model_objective(networks, clips, recipe.batch, recipe.length, recipe.context_noise)
    stages.append(
        Stage(
            "world_model",
            recipe.world_model_fraction,
            [ParamGroup(parameters, 1e-3 * recipe.lr_scale, 0.01)],
            objective,
        )
    )
    rollout = self_rollout_objective(networks, clips, recipe.batch, 2 * recipe.length)
    # Priors of a rollout have no gradient: neither a scene nor a flow is trained on it.
    fixed = ("scene.", "flow_prior.")
    decoder = [parameter for name, parameter in tokenizer.named_parameters() if not name.startswith(fixed)]
    stages.append(
        Stage(
            "self_rollout",
            recipe.self_rollout_fraction,
            [ParamGroup(decoder, 2e-4 * recipe.lr_scale)],
            rollout,
            plateau=0.2,
        )
    )
    return stages


def _scene_groups(scene: StaticScene, lr_scale: float) -> list[ParamGroup]:
    planes = [scene.ground_plane, scene.floor_ceiling_plane, scene.xz_plane, scene.yz_plane]
    colour = [weight for module in scene.children() for weight in module.parameters()]
    return [
        ParamGroup([scene.occupancy], 1e-2 * lr_scale),
        ParamGroup(planes, 2e-2 * lr_scale),
        ParamGroup(colour, 3e-3 * lr_scale),
    ]


def _heads_groups(heads: Heads, lr_scale: float) -> list[ParamGroup]:
    """Parameter groups of the heads; the fitted linear part gets a small learning rate."""
    solved = [] if heads.motion is None else list(heads.motion.linear.parameters())
    others = [weight for weight in heads.parameters() if all(weight is not it for it in solved)]
    return [ParamGroup(others, 2e-3 * lr_scale), ParamGroup(solved, 1e-4 * lr_scale)]


def _world_model_parameters(networks: Networks) -> list[nn.Parameter]:
    """Return all parameters but those of the scene and of the motion stage."""
    excluded = ["tokenizer.scene."]
    if networks.scene is not None:
        excluded.append("heads.motion." if networks.uses_agent_token else "heads.")
    return [weight for name, weight in networks.named_parameters() if not name.startswith(tuple(excluded))]
