"""Weights of a transformer for another unit: of other frames, tokens or scales."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.model.transformer import Transformer

_POSITION, _CONTROL = "position", "conditioning.control_embed.0.weight"
"""The weights that depend on the unit."""


@torch.no_grad()
def transfer(source: Transformer, target: Transformer) -> None:
    """Give ``target`` the weights of ``source``.

    A token's learnt position becomes the mean of those at its place, in the frames that it takes the place
    of. A unit of fewer frames adds up the weights of the controls that were several: while a control is held,
    nothing changes.

    Raises:
        ConfigError: they have other sizes than their units explain.
    """
    weights, wanted = source.state_dict(), target.state_dict()
    made = dict(weights)
    made[_POSITION] = _positions(source, target)
    made[_CONTROL] = _controls(weights[_CONTROL], source.layout.frames, target.layout.frames)
    differ = [name for name, value in wanted.items() if name not in made or made[name].shape != value.shape]
    if differ or set(made) != set(wanted):
        rule = "weights can be taken over by a transformer of the same sizes"
        raise ConfigError(rule, differ or sorted(set(made) - set(wanted)), "give both the same config")
    target.load_state_dict(made)


def _positions(source: Transformer, target: Transformer) -> Tensor:
    """Learnt positions of the target's tokens [N, D]."""
    learnt = source.position
    if source.layout.unit.positions().tolist() == target.layout.unit.positions().tolist():
        return learnt
    known = torch.from_numpy(source.layout.unit.positions())
    many, few = source.layout.frames, target.layout.frames
    rows = []
    for frame, row, column in target.layout.unit.positions().tolist():
        here = (known[:, 1] == row) & (known[:, 2] == column)
        slot = known[:, 0] * few // many if few <= many else known[:, 0] * (few // many)
        same = slot == (frame if few <= many else frame - frame % (few // many))
        rows.append(learnt[(here & same).to(learnt.device)].mean(0))
    return torch.stack(rows)


def _controls(weight: Tensor, many: int, few: int) -> Tensor:
    """Weights [D, F Q] of the controls of ``many`` frames for units of ``few``."""
    if many % few and few % many:
        rule = "units that weights are taken over between must have frames that divide each other"
        raise ConfigError(rule, (many, few), "choose units of 1, 2 or 4 frames")
    split = weight.unflatten(1, (many, -1))
    if few <= many:
        return split.unflatten(1, (few, -1)).sum(2).flatten(1)
    return split.repeat_interleave(few // many, 1).flatten(1) * (many / few)
