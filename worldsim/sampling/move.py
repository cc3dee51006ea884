"""Where cameras get to in a frame: as keys push them, as walls let them, or as poses are given.

Shapes: B worlds, M keys and look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldsim.kernels.library import may_run
from worldsim.sampling import se3

if TYPE_CHECKING:
    from worldsim.networks import Networks
    from worldsim.sampling.lead import Lead
    from worldsim.sampling.world_state import WorldState

_FASTEST = 10
"""Times the usual step of a source: no step is longer, whatever dynamics say of what they never saw."""
_LOST = 100.0
"""Metres of doubt beyond which there is no more to doubt."""


@dataclass(frozen=True, slots=True)
class Move:
    """How the camera gets to the new frame."""

    vector: Tensor
    """Keys and look [B, M]."""
    twist: Tensor
    """Normalised [B, 6]."""
    doubt: Tensor
    """How far off the camera may then be, in metres [B]."""
    poses: Tensor
    """The new frame's camera-to-world, float64 [B, 4, 4]."""
    planar: Tensor | None
    back: Tensor | None
    """Points of the new camera to points of the previous one [B, 4, 4]."""


def move_cameras(networks: Networks, state: WorldState, lead: Lead) -> Move:
    """The explicit pose where one is given, elsewhere the motion head's prediction, kept on the ground."""
    if not networks.has_poses:
        still = state.poses.new_zeros(len(lead.vector), 6).float()
        return Move(lead.vector, still, state.doubt, state.poses, None, None)
    if networks.mover is not None and may_run():
        told = (state.poses, state.moves, state.doubt, lead.vector)
        move = Move(lead.vector, *networks.mover(*told, _FASTEST, _LOST))
    else:
        move = _pushed(networks, state, lead)
    if lead.poses is None or lead.given is None:
        return move
    return _placed(networks, state, move, lead.poses, lead.given)


def _pushed(networks: Networks, state: WorldState, lead: Lead) -> Move:
    """Where keys and walls let cameras go."""
    scale, divisor = _scales(networks.config.twist_scale, networks.device)
    planar, twists = se3.planar(state.poses), state.moves[..., :6] * scale.float()
    controls = torch.cat([state.moves[..., 6:], lead.vector[:, None]], 1)
    around, meet = networks.around(planar), networks.meeting(planar)
    step = networks.heads.move(state.agent.float(), around, controls, twists, planar[:, 2], meet)
    doubt = (state.doubt * (1 + step.spread) + step.slip).clamp(max=_LOST)
    twist = step.twist.double().clamp(-_FASTEST * scale, _FASTEST * scale)
    motion = se3.exp(twist)
    wanted = state.poses @ motion  # both are rigid by now
    poses = _stand(networks, state.poses, wanted)
    if poses is not wanted:  # row by row: who shares the batch with one that is held must not round otherwise
        held, short = (poses != wanted).flatten(1).any(1)[:, None], se3.relative(state.poses, poses)
        motion = torch.where(held[:, None], short, motion)
        twist = torch.where(held, se3.log(short, twist[:, 3:]), twist)
    return Move(lead.vector, (twist / divisor).float(), doubt, poses, se3.planar(poses), motion.float())


def _placed(networks: Networks, state: WorldState, move: Move, poses: Tensor, given: Tensor) -> Move:
    """``move``, but to ``poses`` [B, 4, 4] where they are ``given`` [B]."""
    assert move.planar is not None
    assert move.back is not None
    _, divisor = _scales(networks.config.twist_scale, networks.device)
    asked, row = se3.relative(state.poses, poses), given[:, None]
    return replace(
        move,
        twist=torch.where(row, (se3.log(asked) / divisor).float(), move.twist),
        doubt=torch.where(given, 0.0, move.doubt),
        poses=torch.where(row[:, None], poses, move.poses),
        planar=torch.where(row, se3.planar(poses), move.planar),
        back=torch.where(row[:, None], asked.float(), move.back),
    )


def _stand(networks: Networks, poses: Tensor, wanted: Tensor) -> Tensor:
    """Where cameras [B, 4, 4] come to stand that want to be at ``wanted``; the same tensor where all may."""
    if networks.footing is None:
        return wanted
    ground = networks.footing.hold(poses[:, :2, 3], wanted[:, :2, 3])
    if ground is None:
        return wanted
    held = wanted.clone()
    held[:, :2, 3] = ground
    return held


@cache
def _scales(scale: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What a normalised twist is multiplied by, and what one in metres and radians is divided by."""
    with torch.inference_mode(False):
        factor = torch.tensor(scale, dtype=torch.float64, device=device)
        return factor, torch.where(factor > 0, factor, 1.0)
