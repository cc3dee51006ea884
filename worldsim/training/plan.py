"""Which stages a recipe runs on given networks and data."""

from __future__ import annotations

from functools import partial

from torch import nn

from worldsim.data.clips import ClipStore
from worldsim.model.heads import Heads
from worldsim.networks import Networks
from worldsim.tokenizer.place import Place
from worldsim.training.dream_objective import dream_objective
from worldsim.training.motion_objective import motion_objective, solve_pushes
from worldsim.training.moving import MovingRecipe, moving_stages
from worldsim.training.place_objective import place_objective
from worldsim.training.recipes import Recipe, prepare_place
from worldsim.training.rollout_objective import rollout_objective
from worldsim.training.stage import Rate, Stage


def stages_of(
    recipe: Recipe | MovingRecipe, networks: Networks, clips: ClipStore, warm: bool
) -> list[Stage]:
    """The stages in order. ``warm``: the weights are trained already, none is initialised from the data."""
    if isinstance(recipe, MovingRecipe):
        return moving_stages(recipe, networks, clips, warm)
    stages, tokenizer, place = [], networks.tokenizer, networks.place
    if place is not None:
        start = None if warm else partial(prepare_place, networks, clips)
        objective = place_objective(place, clips)
        rates = _place_rates(place, recipe.rate)
        stages.append(Stage("place", recipe.place_share, rates, objective, start))
        if networks.heads.motion is not None:
            start = None if warm else partial(solve_pushes, networks, clips)
            objective, rates = (
                motion_objective(networks, clips, warm=warm),
                _heads_rates(networks.heads, recipe.rate),
            )
            stages.append(Stage("motion", recipe.motion_share, rates, objective, start))
    learn = _dream_parameters(networks)
    dream = dream_objective(networks, clips, recipe.batch, recipe.length, recipe.context_noise)
    stages.append(Stage("dream", recipe.dream_share, [Rate(learn, 1e-3 * recipe.rate, 0.01)], dream))
    rollout = rollout_objective(networks, clips, recipe.batch, 2 * recipe.length)
    decoder = [parameter for name, parameter in tokenizer.named_parameters() if not name.startswith("place.")]
    stages.append(
        Stage("rollout", recipe.rollout_share, [Rate(decoder, 2e-4 * recipe.rate)], rollout, hold=0.2)
    )
    return stages


def _place_rates(place: Place, rate: float) -> list[Rate]:
    planes = [place.ground, place.level, place.wall_x, place.wall_y]
    colour = [weight for module in place.children() for weight in module.parameters()]
    return [Rate([place.occupancy], 1e-2 * rate), Rate(planes, 2e-2 * rate), Rate(colour, 3e-3 * rate)]


def _heads_rates(heads: Heads, rate: float) -> list[Rate]:
    """What was solved for is only touched up."""
    solved = [] if heads.motion is None else list(heads.motion.push.parameters())
    others = [weight for weight in heads.parameters() if all(weight is not it for it in solved)]
    return [Rate(others, 2e-3 * rate), Rate(solved, 1e-4 * rate)]


def _dream_parameters(networks: Networks) -> list[nn.Parameter]:
    """All but the place, and the heads that the motion stage has taught."""
    taught = ["tokenizer.place."]
    if networks.place is not None:
        taught.append("heads.motion." if networks.reads_agent else "heads.")
    return [weight for name, weight in networks.named_parameters() if not name.startswith(tuple(taught))]
