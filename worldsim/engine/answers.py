"""What an engine answers of a batch: a step for each of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from worldsim import pool
from worldsim.engine.step import Step
from worldsim.pixels import to_frame
from worldsim.sampling.imagine import Imagined
from worldsim.sampling.lead import Controls
from worldsim.sampling.world_state import WorldState

if TYPE_CHECKING:
    from worldsim.engine.world import World


def steps_of(
    world: World, imagined: Imagined, state: WorldState, controls: Controls, steps: int, frames: bool
) -> list[Step]:
    """A step for each row of a batch."""
    count, given = len(controls.vector), controls.given
    assert given is not None, "made by controls_of"
    seen = _kept(to_frame(imagined.frame)) if frames else np.empty((count, 0, 0, 3), np.uint8)
    latents = _kept(imagined.latent.float())
    reward, terminated = imagined.reward.float().tolist(), imagined.terminated.tolist()
    drift, indices = imagined.drift.float().tolist(), state.indices.tolist()
    known, poses = imagined.known.tolist(), state.poses.cpu().numpy()
    has_poses = world.networks.has_poses
    return [
        Step(
            frame=seen[i],
            pose=poses[i].copy() if has_poses else None,
            pose_given=bool(given[i]),
            reward=reward[i],
            terminated=terminated[i],
            drift=drift[i] if has_poses else None,
            index=indices[i] - 1,
            steps=steps,
            latent=latents[i],
            known=known[i],
        )
        for i in range(count)
    ]


def _kept(part: Tensor) -> np.ndarray:
    """What steps show, apart from what comes and goes: histories keep it, and it would break the heap up."""
    return pool.copied(part.cpu()).numpy()
